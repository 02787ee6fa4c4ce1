// SPDX-License-Identifier: Apache-2.0
// q3_k: searched scale per 16 weights, quantised to signed 6 bits per 256; codes -4..3.
#pragma once

#include "kernels/encode/k_scaled.h"
#include "kernels/layout/q3_k.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

struct Q3Grid {
    static constexpr int kGroup = 16;
    THIMBLE_LANE float search(const float* weights, const float* importance) {
        return search_scale(weights, importance, kGroup, {4, 3}, {-1.6f, 0.7f}, 2);
    }
    THIMBLE_LANE Lanes errors(const float* weights, const float* importance, Lanes scale) {
        return errors_left(weights, importance, kGroup, scale, spread(0), -4, 3);
    }
    THIMBLE_LANE void nearest(const float* weights, float scale, float* values) {
        nearest_codes(weights, kGroup, scale, 0, -4, 3, values);
    }
};

static inline void encode_block(const float* weights, const float* importance,
                                Layout<LayoutId::k_q3_k>::Block& out) {
    KScaledBlock<Q3Grid> plain;
    encode_k_scaled(weights, importance, plain);
    out = {};
    out.d = plain.d;
    for (int g = 0; g < 16; ++g) Layout<LayoutId::k_q3_k>::set_scale(out, g, plain.scale[g]);
    std::uint8_t codes[256];
    to_bytes(plain.values, 256, 4, codes);
    for (int line = 0; line < 8; ++line) {
        for (int i = 0; i < 32; ++i) {
            const int code = codes[32 * line + i];
            std::uint8_t& low = out.low[32 * (line / 4) + i];
            low = static_cast<std::uint8_t>(low | (code & 3) << (2 * (line % 4)));
            out.high[i] = static_cast<std::uint8_t>(out.high[i] | (code >> 2) << line);
        }
    }
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
