// SPDX-License-Identifier: Apache-2.0
// iq4_xs: searched scale per 32 weights, quantised to signed 6 bits per 256; codes through a table.
#pragma once

#include "kernels/encode/iq4.h"
#include "kernels/encode/k_scaled.h"
#include "kernels/layout/iq4_xs.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

static inline void encode_block(const float* weights, const float* importance,
                                Layout<LayoutId::k_iq4_xs>::Block& out) {
    KScaledBlock<Iq4Grid> plain;
    encode_k_scaled(weights, importance, plain);
    out = {};
    out.d = plain.d;
    for (int g = 0; g < 8; ++g) {
        Layout<LayoutId::k_iq4_xs>::set_scale(out, g, plain.scale[g]);
        std::uint8_t codes[32];
        iq4_codes(plain.values + 32 * g, codes);
        for (int i = 0; i < 16; ++i)
            out.codes[16 * g + i] = static_cast<std::uint8_t>(codes[i] | codes[i + 16] << 4);
    }
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
