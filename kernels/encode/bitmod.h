// SPDX-License-Identifier: Apache-2.0
// bitmod: of sixteen scales and all datatypes the pair of least (weighted) squared error; of the
// codes that a scale gives, the least-squares solution takes its place.
#pragma once

#include "kernels/encode/scale_search.h"
#include "kernels/encode/search.h"
#include "kernels/layout/bitmod.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

// Of all but the special value.
template <int bits>
THIMBLE_LANE Lanes nearest_bitmod(Lanes x) {
    const Lanes size = magnitude(x);
    Lanes value;
    if constexpr (bits == 4) {
        const Lanes top = min(size, spread(12));
        const IntLanes above4 = greater(top, spread(4)), above8 = greater(top, spread(8));
        const Lanes step = select(above8, spread(4), select(above4, spread(2), spread(1)));
        const Lanes per_step =
            select(above8, spread(0.25f), select(above4, spread(0.5f), spread(1)));
        value = round_even(top * per_step) * step;
    } else {
        const Lanes small = select(greater(size, spread(0.5f)), spread(1), spread(0));
        const Lanes middle = select(greater(size, spread(1.5f)), spread(2), small);
        value = select(greater(size, spread(3)), spread(4), middle);
    }
    return select(greater(spread(0), x), spread(0) - value, value);
}

template <int bits>
static inline void fit_bitmod_bits(ScaleSearch& fit) {
    using Values = Bitmod<bits>;
    const Extremes e = extremes(fit.weights, fit.n);
    const float peak = -e.least > e.most ? -e.least : e.most;
    fit.id = fit.first_id;
    fit.scale = peak / static_cast<float>(Values::most(fit.id));
    if (!(peak > kTiny) || peak > kHuge) return;
    const Ladder parts{0.7f / static_cast<float>(Values::most(2)),
                       1.1f / static_cast<float>(Values::most(0))};
    const Lanes zero = spread(0), inverse = spread(1) / (rungs(parts) * spread(peak));
    Lanes special[Values::kVariants], lx[Values::kVariants], ll[Values::kVariants];
    for (int id = 0; id < Values::kVariants; ++id) {
        special[id] = spread(static_cast<float>(Values::special(id)));
        lx[id] = ll[id] = zero;
    }
    for (int i = 0; i < fit.n; ++i) {
        const Lanes weight = spread(fit.importance[i]);
        const Lanes wx = weight * spread(fit.weights[i]);
        const Lanes x = spread(fit.weights[i]) * inverse;
        const Lanes base = nearest_bitmod<bits>(x), gap = magnitude(x - base);
        for (int id = fit.first_id; id < fit.end_id; ++id) {
            const Lanes other = magnitude(x - special[id]);
            const Lanes value = select(greater(gap, other), special[id], base);
            lx[id] = lx[id] + wx * value;
            ll[id] = ll[id] + weight * value * value;
        }
    }
    float most = -1;
    for (int id = fit.first_id; id < fit.end_id; ++id) {
        const IntLanes valid = greater(ll[id], zero) & greater(lx[id], zero);
        const Lanes scale = select(valid, lx[id] / ll[id], zero);
        // What the codes take off the weights' squares.
        const Lanes score = select(valid, scale * lx[id], spread(-1));
        const int lane = best_lane(score);
        if (!(lane_of(score, lane) > most)) continue;
        most = lane_of(score, lane);
        fit.id = id, fit.scale = lane_of(scale, lane);
    }
}

static inline void fit_bitmod(ScaleSearch& fit) {
    if (fit.bits == 3) return fit_bitmod_bits<3>(fit);
    fit_bitmod_bits<4>(fit);
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
