// SPDX-License-Identifier: Apache-2.0
// q6_k: one scale per 16 weights, quantised to signed 8 bits per 256; codes -32..31. Every group's
// scale is searched freely; the largest sets d, and sixteen 8-bit scales around each group's are
// tried on its weights.
#pragma once

#include "kernels/encode/search.h"
#include "kernels/layout/q6_k.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

// The best of the sixteen 8-bit scales nearest to the searched one.
THIMBLE_LANE float choose_scale16(const float* weights, const float* importance, float scale,
                                  float d) {
    if (d == 0) return 0;
    const Lanes first = spread(round_even(scale / d - 7.5f));
    const Lanes whole = min(max(first + counted(), spread(-128)), spread(127));
    const Lanes error = errors_left(weights, importance, 16, whole * spread(d), spread(0), -32, 31);
    return lane_of(whole, best_lane(spread(0) - error));
}

THIMBLE_LANE void pack(const std::uint8_t (&u)[256], Layout<LayoutId::k_q6_k>::Block& out) {
    for (int h = 0; h < 2; ++h) {
        const std::uint8_t* half = u + 128 * h;
        for (int i = 0; i < 32; ++i) {
            for (int q = 0; q < 2; ++q)
                out.low[64 * h + 32 * q + i] = static_cast<std::uint8_t>(
                    (half[32 * q + i] & 15) | (half[32 * (q + 2) + i] & 15) << 4);
            out.high[32 * h + i] =
                static_cast<std::uint8_t>(half[i] >> 4 | (half[32 + i] >> 4) << 2 |
                                          (half[64 + i] >> 4) << 4 | (half[96 + i] >> 4) << 6);
        }
    }
}

static inline void encode_block(const float* weights, const float* importance,
                                Layout<LayoutId::k_q6_k>::Block& out) {
    float w[256], scales[16], codes[256];
    importance_or_ones(importance, w, 256);
    float peak = 0, magnitude_of_peak = 0;
    for (int g = 0; g < 16; ++g) {
        scales[g] = search_scale(weights + 16 * g, w + 16 * g, 16, {32, 31}, {-3, 2}, 1);
        const float size = scales[g] < 0 ? -scales[g] : scales[g];
        if (size > magnitude_of_peak) peak = scales[g], magnitude_of_peak = size;
    }
    out.d = f32_to_f16(peak / -128.0f);  // the peak's group gets scale -128
    const float d = f16_to_f32(out.d);
    for (int g = 0; g < 16; ++g) {
        const float scale = choose_scale16(weights + 16 * g, w + 16 * g, scales[g], d);
        out.scales[g] = static_cast<std::int8_t>(scale);
        nearest_codes(weights + 16 * g, 16, d * scale, 0, -32, 31, codes + 16 * g);
    }
    std::uint8_t bytes[256];
    to_bytes(codes, 256, 32, bytes);
    pack(bytes, out);
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
