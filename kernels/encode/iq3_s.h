// SPDX-License-Identifier: Apache-2.0
// iq3_s: points of 4 weights out of 512, free signs, a 4-bit scale per 32 weights.
#pragma once

#include "kernels/encode/codebook.h"
#include "kernels/layout/iq3_s.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

struct Iq3S {
    using Grid = Iq3SGrid;
    static constexpr int kGroup = 32, kTop = 15, kUnit = 1, kTried = 4;
    static constexpr Signs kSigns = Signs::kFree;
};

static inline void encode_block(const float* weights, const float* importance,
                                Layout<LayoutId::k_iq3_s>::Block& out) {
    CodebookBlock<Iq3S> plain;
    encode_codebook(weights, importance, plain);
    out = {};
    out.d = plain.d;
    for (int p = 0; p < 64; ++p) {
        out.low[p] = static_cast<std::uint8_t>(plain.points[p]);
        std::uint8_t& high = out.high[p / 8];
        high = static_cast<std::uint8_t>(high | plain.points[p] >> 8 << (p % 8));
    }
    for (int v = 0; v < 32; ++v) out.signs[v] = plain.signs[v];
    for (int g = 0; g < 4; ++g)
        out.scales[g] = static_cast<std::uint8_t>(plain.scale[2 * g] | plain.scale[2 * g + 1] << 4);
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
