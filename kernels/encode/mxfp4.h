// SPDX-License-Identifier: Apache-2.0
// mxfp4: the power of two and the nearest E2M1 codes that leave the least (weighted) squared error
// ("OCP Microscaling Formats (MX) Specification" 1.0, 2023).
// differs: the specification's conversion takes the peak's own exponent, which clips peaks above
// 3/4 of the next power of two; here the exponent above is tried too, and with importance those
// below.
#pragma once

#include "kernels/encode/search.h"
#include "kernels/layout/mxfp4.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

// Nearest of the magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6 to magnitudes.
THIMBLE_LANE Lanes nearest_e2m1(Lanes v) {
    v = min(v, spread(6));
    const IntLanes above2 = greater(v, spread(2)), above4 = greater(v, spread(4));
    const Lanes step = select(above4, spread(2), select(above2, spread(1), spread(0.5f)));
    const Lanes inverse = select(above4, spread(0.5f), select(above2, spread(1), spread(2)));
    return round_even(v * inverse) * step;
}

// What exponent d leaves of 32 weights, in units of 2^(d - 127).
THIMBLE_LANE float mxfp4_error(const float* weights, const float* importance, Lanes inverse) {
    Lanes error = spread(0);
    for (int i = 0; i < 32; i += kLanes) {
        const Lanes v = magnitude(load(weights + i)) * inverse;
        const Lanes difference = nearest_e2m1(v) - v;
        error = error + load(importance + i) * difference * difference;
    }
    return sum(error);
}

static inline void encode_block(const float* weights, const float* importance,
                                Layout<LayoutId::k_mxfp4>::Block& out) {
    float w[32];
    importance_or_ones(importance, w, 32);
    const float peak = greatest_lane(max(magnitude(load(weights)), magnitude(load(weights + 16))));
    // Puts the peak between 4 and 8 units, where that many exist.
    const int own = static_cast<int>(float_to_bits(peak) >> 23) - 2;
    const auto clamped = [&](int d) { return d < 0 ? 0 : d > kE8m0Finite ? kE8m0Finite : d; };
    const auto inverse_of = [](int d) {
        return spread(bits_to_float(static_cast<std::uint32_t>(254 - d) << 23));
    };
    int best = clamped(own);
    double least = 0;
    const int count = importance != nullptr ? 4 : 2;
    for (int k = 0; k < count; ++k) {
        const int d = clamped(own + 1 - k);
        // Errors are in units of each d: those of own + 1 count four times those of own.
        const double error = static_cast<double>(mxfp4_error(weights, w, inverse_of(d))) /
                             static_cast<double>(1 << (2 * k));
        if (k > 0 && (!(error < least) || d != own + 1 - k)) continue;
        best = d;
        least = error;
    }
    const Lanes inverse = inverse_of(best);
    std::uint8_t codes[32];
    for (int i = 0; i < 32; i += kLanes) {
        const Lanes x = load(weights + i);
        const Lanes v = nearest_e2m1(magnitude(x) * inverse);
        // 0, 0.5, ... 2 have codes 0 to 4; 3, 4 and 6 have 5, 6 and 7.
        const Lanes last = select(greater(v, spread(4)), spread(7), v + spread(2));
        const Lanes code = select(greater(v, spread(2)), last, v + v);
        const IntLanes negative = greater(spread(0), x) & greater(v, spread(0));
        store_bytes(codes + i, truncate(code + select(negative, spread(8), spread(0))));
    }
    out.d = static_cast<std::uint8_t>(best);
    for (int i = 0; i < 16; ++i)
        out.codes[i] = static_cast<std::uint8_t>(codes[i] | codes[i + 16] << 4);
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
