// SPDX-License-Identifier: Apache-2.0
// mxfp4: 32 weights, one E8M0 scale (a power of two), E2M1 codes (4.25 bits per weight); OCP
// Microscaling Formats, 2023.
//   w[i] = 2^(d - 127) * e2m1(code[i])          d = 255 is NaN; finite blocks have d <= 252
//
//   byte  0    1                              16
//        | d  | codes[0] ..........  codes[15] |
//   byte i of codes: low nibble = code of weight i, high nibble = code of weight i + 16
#pragma once

#include "kernels/layout/e2m1.h"
#include "kernels/layout/layout.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_mxfp4> {
    struct Block {
        std::uint8_t d;
        std::uint8_t codes[16];
    };
    static constexpr int kElements = 32;

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        const Real d = static_cast<Real>(e8m0_half_to_f32(block.d));
        for (int i = 0; i < 16; ++i) {
            out[i] = d * static_cast<Real>(E2m1::value(block.codes[i] & 15));
            out[i + 16] = d * static_cast<Real>(E2m1::value(block.codes[i] >> 4));
        }
    }
};
static_assert(sizeof(Layout<LayoutId::k_mxfp4>::Block) == 17);

}  // namespace thimble
