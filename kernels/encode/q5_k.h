// SPDX-License-Identifier: Apache-2.0
// q5_k: as q4_k, with codes of 5 bits.
#pragma once

#include "kernels/encode/k_affine.h"
#include "kernels/layout/q5_k.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

static inline void encode_block(const float* weights, const float* importance,
                                Layout<LayoutId::k_q5_k>::Block& out) {
    KAffineBlock plain;
    encode_k_affine(weights, importance, 31, plain);
    out.d = plain.d;
    out.dmin = plain.dmin;
    plain.scales.pack(out.scales);
    for (int p = 0; p < 4; ++p) {
        const std::uint8_t* codes = plain.codes + 64 * p;
        for (int i = 0; i < 32; ++i)
            out.low[32 * p + i] =
                static_cast<std::uint8_t>((codes[i] & 15) | (codes[i + 32] & 15) << 4);
    }
    for (int i = 0; i < 32; ++i) {
        int bits = 0;
        for (int g = 0; g < 8; ++g) bits |= (plain.codes[32 * g + i] >> 4) << g;
        out.high[i] = static_cast<std::uint8_t>(bits);
    }
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
