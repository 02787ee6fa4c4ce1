// SPDX-License-Identifier: Apache-2.0
// iq1_m: points of 8 weights out of 2048 with a shift each, a 3-bit scale per 16 weights.
#pragma once

#include "kernels/encode/codebook.h"
#include "kernels/layout/iq1_m.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

struct Iq1M {
    using Grid = Iq1Grid;
    static constexpr int kGroup = 16, kTop = 7, kUnit = 1, kTried = 2;
    static constexpr Signs kSigns = Signs::kOctetShift;
};

static inline void encode_block(const float* weights, const float* importance,
                                Layout<LayoutId::k_iq1_m>::Block& out) {
    CodebookBlock<Iq1M> plain;
    encode_codebook(weights, importance, plain);
    out = {};
    for (int v = 0; v < 32; ++v) {
        out.low[v] = static_cast<std::uint8_t>(plain.points[v]);
        const int nibble = plain.points[v] >> 8 | (plain.down[v] ? 8 : 0);
        std::uint8_t& high = out.high[v / 2];
        high = static_cast<std::uint8_t>(high | nibble << (4 * (v % 2)));
    }
    for (int n = 0; n < 4; ++n) {
        int word = (plain.d >> (4 * n) & 15) << 12;
        for (int g = 0; g < 4; ++g) word |= plain.scale[4 * n + g] << (3 * g);
        out.scales[n] = static_cast<std::uint16_t>(word);
    }
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
