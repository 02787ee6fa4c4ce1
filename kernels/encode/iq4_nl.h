// SPDX-License-Identifier: Apache-2.0
// iq4_nl: one searched scale per 32 weights, of either sign, codes through a table.
#pragma once

#include "kernels/encode/iq4.h"
#include "kernels/layout/iq4_nl.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

static inline void encode_block(const float* weights, const float* importance,
                                Layout<LayoutId::k_iq4_nl>::Block& out) {
    float w[32], values[32];
    importance_or_ones(importance, w, 32);
    out.d = f32_to_f16(Iq4Grid::search(weights, w));
    Iq4Grid::nearest(weights, f16_to_f32(out.d), values);
    std::uint8_t codes[32];
    iq4_codes(values, codes);
    for (int i = 0; i < 16; ++i)
        out.codes[i] = static_cast<std::uint8_t>(codes[i] | codes[i + 16] << 4);
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
