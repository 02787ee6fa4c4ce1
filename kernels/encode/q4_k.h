// SPDX-License-Identifier: Apache-2.0
// q4_k: searched scale and minimum per 32 weights, quantised to 6 bits per 256.
#pragma once

#include "kernels/encode/k_affine.h"
#include "kernels/layout/q4_k.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

static inline void encode_block(const float* weights, const float* importance,
                                Layout<LayoutId::k_q4_k>::Block& out) {
    KAffineBlock plain;
    encode_k_affine(weights, importance, 15, plain);
    out.d = plain.d;
    out.dmin = plain.dmin;
    plain.scales.pack(out.scales);
    for (int p = 0; p < 4; ++p) {
        const std::uint8_t* codes = plain.codes + 64 * p;
        for (int i = 0; i < 32; ++i)
            out.codes[32 * p + i] = static_cast<std::uint8_t>(codes[i] | codes[i + 32] << 4);
    }
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
