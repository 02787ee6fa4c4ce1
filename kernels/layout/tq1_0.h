// SPDX-License-Identifier: Apache-2.0
// tq1_0: 256 ternary weights, one f16 scale, five base-3 digits to the byte (1.6875 bits per
// weight).
//   w[i] = d * (digit[i] - 1)
//
//   byte  0                       48              52      53
//        | codes[0] .. codes[47] | last[0..3]    | d f16 |
//   A byte holds the fraction 0.abcde in base 3, scaled to 256 and rounded up, so that its digits
//   come out one by one as the carry of a multiplication by three (modulo 256). Digit n of
//     codes[i], i < 32          weight 32 n + i                n in 0..4
//     codes[32 + i], i < 16     weight 160 + 16 n + i          n in 0..4
//     last[i]                   weight 240 + 4 n + i           n in 0..3
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/layout.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_tq1_0> {
    struct Block {
        std::uint8_t codes[48];
        std::uint8_t last[4];
        std::uint16_t d;
    };
    static constexpr int kElements = 256;

    // Digit n of byte i to out[count * n + i].
    THIMBLE_HOST_DEVICE static void split(const std::uint8_t* bytes, int count, int digits,
                                          std::uint8_t* out) {
        for (int i = 0; i < count; ++i) {
            unsigned left = bytes[i];
            for (int n = 0; n < digits; ++n) {
                left *= 3;
                out[count * n + i] = static_cast<std::uint8_t>(left >> 8);
                left &= 255;
            }
        }
    }
    THIMBLE_HOST_DEVICE static void split(const Block& block, std::uint8_t (&digits)[256]) {
        split(block.codes, 32, 5, digits);
        split(block.codes + 32, 16, 5, digits + 160);
        split(block.last, 4, 4, digits + 240);
    }

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d));
        std::uint8_t digits[256];
        split(block, digits);
        for (int i = 0; i < 256; ++i) out[i] = d * static_cast<Real>(digits[i] - 1);
    }
};
static_assert(sizeof(Layout<LayoutId::k_tq1_0>::Block) == 54);

}  // namespace thimble
