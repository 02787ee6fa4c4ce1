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
#include "kernels/layout/parts.h"

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
    THIMBLE_HOST_DEVICE static void split(const std::uint8_t* bytes, int count, int places,
                                          std::uint8_t* out) {
        for (int i = 0; i < count; ++i) {
            unsigned left = bytes[i];
            for (int n = 0; n < places; ++n) {
                left *= 3;
                out[count * n + i] = static_cast<std::uint8_t>(left >> 8);
                left &= 255;
            }
        }
    }

    // out[i] = d * (digit n of byte i - 1)
    template <int count, class Real>
    THIMBLE_HOST_DEVICE static void digits(const std::uint8_t* bytes, int n, Real d, Real* out) {
        int power = 1;
        for (int i = 0; i < n; ++i) power *= 3;
        for (int i = 0; i < count; ++i)
            out[i] = d * static_cast<Real>(((bytes[i] * power & 255) * 3 >> 8) - 1);
    }

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack_part(const Block& block, int part, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d));
        if (part < 5) return digits<32>(block.codes, part, d, out);
        digits<16>(block.codes + 32, 2 * (part - 5), d, out);
        if (part < 7) return digits<16>(block.codes + 32, 2 * (part - 5) + 1, d, out + 16);
        for (int n = 0; n < 4; ++n) digits<4>(block.last, n, d, out + 16 + 4 * n);
    }
    // A byte's digits one after the other, instead of a pass over the bytes for each digit.
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d));
        std::uint8_t digit[kElements];
        split(block.codes, 32, 5, digit);
        split(block.codes + 32, 16, 5, digit + 160);
        split(block.last, 4, 4, digit + 240);
        for (int i = 0; i < kElements; ++i) out[i] = d * static_cast<Real>(digit[i] - 1);
    }
};
static_assert(sizeof(Layout<LayoutId::k_tq1_0>::Block) == 54);

}  // namespace thimble
