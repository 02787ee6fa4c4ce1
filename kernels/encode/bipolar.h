// SPDX-License-Identifier: Apache-2.0
// bipolar: the scale of least (weighted) squared error for codes of 2 to 8 bits.
#pragma once

#include "kernels/encode/scale_search.h"
#include "kernels/encode/search.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

static inline void fit_bipolar(ScaleSearch& fit) {
    const Extremes e = extremes(fit.weights, fit.n);
    const float peak = -e.least > e.most ? -e.least : e.most;
    const auto top = static_cast<float>((1 << fit.bits) - 1);
    fit.scale = peak / top;
    if (!(peak > kTiny) || peak > kHuge) return;
    // Few bits cut off more of the peak.
    const Ladder parts{fit.bits < 4 ? 0.3f : 0.6f, 1.05f};
    const Lanes half = spread(0.5f), zero = spread(0), most = spread(top);
    Lanes scale = rungs(parts) * spread(fit.scale), score = zero;
    for (int pass = 0; pass < 3; ++pass) {
        const Lanes inverse = spread(1) / scale;
        Lanes lx = zero, ll = zero;
        for (int i = 0; i < fit.n; ++i) {
            const Lanes x = spread(fit.weights[i]);
            const Lanes code = round_even(min(max((x * inverse + most) * half, zero), most));
            const Lanes value = code + code - most;
            const Lanes wl = spread(fit.importance[i]) * value;
            lx = lx + wl * x;
            ll = ll + wl * value;
        }
        const IntLanes valid = greater(ll, zero) & greater(lx, zero);
        score = select(valid, lx / ll * lx, spread(-1));
        scale = select(valid, lx / ll, scale);
    }
    fit.scale = lane_of(scale, best_lane(score));
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
