// SPDX-License-Identifier: Apache-2.0
// q5_1: 32 weights, f16 scale and minimum, 5-bit codes (6 bits per weight).
//   w[i] = d * code[i] + m
//
//   byte  0       2       4               8                          23
//        | d f16 | m f16 | high[0..3]    | low[0] ..........  low[15] |
//   bit i of high (little endian, 32 bits) = bit 4 of weight i's code
//   byte i of low: low nibble = bits 0-3 of weight i's code, high nibble = of weight i + 16
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/layout.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_q5_1> {
    struct Block {
        std::uint16_t d, m;
        std::uint8_t high[4];
        std::uint8_t low[16];
    };
    static constexpr int kElements = 32;

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d));
        const Real m = static_cast<Real>(f16_to_f32(block.m));
        for (int i = 0; i < 16; ++i) {
            const int first = (block.low[i] & 15) | ((block.high[i / 8] >> (i % 8)) & 1) << 4;
            const int second = (block.low[i] >> 4) | ((block.high[2 + i / 8] >> (i % 8)) & 1) << 4;
            out[i] = d * static_cast<Real>(first) + m;
            out[i + 16] = d * static_cast<Real>(second) + m;
        }
    }
};
static_assert(sizeof(Layout<LayoutId::k_q5_1>::Block) == 24);

}  // namespace thimble
