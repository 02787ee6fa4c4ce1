// SPDX-License-Identifier: Apache-2.0
// iq2_xs: points of 8 weights out of 512, even signs, a 4-bit scale per 16 weights.
#pragma once

#include "kernels/encode/codebook.h"
#include "kernels/layout/iq2_xs.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

struct Iq2Xs {
    using Grid = Iq2XsGrid;
    static constexpr int kGroup = 16, kTop = 15, kUnit = 8, kTried = 4;
    static constexpr Signs kSigns = Signs::kEven;
};

static inline void encode_block(const float* weights, const float* importance,
                                Layout<LayoutId::k_iq2_xs>::Block& out) {
    CodebookBlock<Iq2Xs> plain;
    encode_codebook(weights, importance, plain);
    out = {};
    out.d = plain.d;
    for (int v = 0; v < 32; ++v)
        out.points[v] = static_cast<std::uint16_t>(plain.points[v] | (plain.signs[v] & 127) << 9);
    for (int g = 0; g < 8; ++g)
        out.scales[g] = static_cast<std::uint8_t>(plain.scale[2 * g] | plain.scale[2 * g + 1] << 4);
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
