// SPDX-License-Identifier: Apache-2.0
// iq1_s: points of 8 weights out of 2048, a 3-bit scale and a shift per 32 weights.
#pragma once

#include "kernels/encode/codebook.h"
#include "kernels/layout/iq1_s.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

struct Iq1S {
    using Grid = Iq1Grid;
    static constexpr int kGroup = 32, kTop = 7, kUnit = 1, kTried = 2;
    static constexpr Signs kSigns = Signs::kGroupShift;
};

static inline void encode_block(const float* weights, const float* importance,
                                Layout<LayoutId::k_iq1_s>::Block& out) {
    CodebookBlock<Iq1S> plain;
    encode_codebook(weights, importance, plain);
    out = {};
    out.d = plain.d;
    for (int v = 0; v < 32; ++v) {
        out.low[v] = static_cast<std::uint8_t>(plain.points[v]);
        std::uint16_t& high = out.high[v / 4];
        high = static_cast<std::uint16_t>(high | plain.points[v] >> 8 << (3 * (v % 4)));
    }
    for (int g = 0; g < 8; ++g)
        out.high[g] = static_cast<std::uint16_t>(out.high[g] | plain.scale[g] << 12 |
                                                 (plain.down[4 * g] ? 0x8000 : 0));
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
