// SPDX-License-Identifier: Apache-2.0
// q4_1: 32 weights, f16 scale and minimum, 4-bit codes (5 bits per weight).
//   w[i] = d * code[i] + m
//
//   byte  0       2       4                              19
//        | d f16 | m f16 | codes[0] ..........  codes[15] |
//   byte i of codes: low nibble = code of weight i, high nibble = code of weight i + 16
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/layout.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_q4_1> {
    struct Block {
        std::uint16_t d, m;
        std::uint8_t codes[16];
    };
    static constexpr int kElements = 32;

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d));
        const Real m = static_cast<Real>(f16_to_f32(block.m));
        for (int i = 0; i < 16; ++i) {
            out[i] = d * static_cast<Real>(block.codes[i] & 15) + m;
            out[i + 16] = d * static_cast<Real>(block.codes[i] >> 4) + m;
        }
    }
};
static_assert(sizeof(Layout<LayoutId::k_q4_1>::Block) == 20);

}  // namespace thimble
