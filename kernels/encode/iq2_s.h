// SPDX-License-Identifier: Apache-2.0
// iq2_s: points of 8 weights out of 1024, free signs, a 4-bit scale per 16 weights.
#pragma once

#include "kernels/encode/codebook.h"
#include "kernels/layout/iq2_s.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

struct Iq2S {
    using Grid = Iq2SGrid;
    static constexpr int kGroup = 16, kTop = 15, kUnit = 8, kTried = 4;
    static constexpr Signs kSigns = Signs::kFree;
};

static inline void encode_block(const float* weights, const float* importance,
                                Layout<LayoutId::k_iq2_s>::Block& out) {
    CodebookBlock<Iq2S> plain;
    encode_codebook(weights, importance, plain);
    out = {};
    out.d = plain.d;
    for (int v = 0; v < 32; ++v) {
        out.low[v] = static_cast<std::uint8_t>(plain.points[v]);
        out.signs[v] = plain.signs[v];
        std::uint8_t& high = out.high[v / 4];
        high = static_cast<std::uint8_t>(high | plain.points[v] >> 8 << (2 * (v % 4)));
    }
    for (int g = 0; g < 8; ++g)
        out.scales[g] = static_cast<std::uint8_t>(plain.scale[2 * g] | plain.scale[2 * g + 1] << 4);
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
