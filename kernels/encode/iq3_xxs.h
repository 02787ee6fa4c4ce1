// SPDX-License-Identifier: Apache-2.0
// iq3_xxs: points of 4 weights out of 256, even signs, a 4-bit scale per 32 weights.
#pragma once

#include "kernels/encode/codebook.h"
#include "kernels/layout/iq3_xxs.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

struct Iq3Xxs {
    using Grid = Iq3XxsGrid;
    static constexpr int kGroup = 32, kTop = 15, kUnit = 4, kTried = 4;
    static constexpr Signs kSigns = Signs::kEven;
};

static inline void encode_block(const float* weights, const float* importance,
                                Layout<LayoutId::k_iq3_xxs>::Block& out) {
    CodebookBlock<Iq3Xxs> plain;
    encode_codebook(weights, importance, plain);
    out = {};
    out.d = plain.d;
    for (int p = 0; p < 64; ++p) out.points[p] = static_cast<std::uint8_t>(plain.points[p]);
    for (int g = 0; g < 8; ++g) {
        std::uint32_t word = static_cast<std::uint32_t>(plain.scale[g]) << 28;
        for (int v = 0; v < 4; ++v) word |= (plain.signs[4 * g + v] & 127u) << (7 * v);
        store_u32(word, out.signs_scales[g]);
    }
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
