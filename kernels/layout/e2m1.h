// SPDX-License-Identifier: Apache-2.0
// The OCP element and scale types of MXFP4 ("OCP Microscaling Formats (MX) Specification" 1.0,
// 2023): E2M1, a sign, two exponent bits and one of mantissa, and E8M0, a power of two.
#pragma once

#include <cstdint>

#include "kernels/layout/half.h"

namespace thimble {

// Twice the value of a 4-bit E2M1 code, which makes it whole: 0 1 2 3 4 6 8 12, then the same
// negative (code 8 is minus zero).
struct E2m1 {
    static constexpr int kOffset = 16;  // added, it makes every value positive
    static constexpr int kBits = 5;     // of such a sum
    THIMBLE_HOST_DEVICE static constexpr int value(int code) {
        const int exponent = (code >> 1) & 3, mantissa = code & 1;
        const int magnitude = exponent == 0 ? mantissa : (2 + mantissa) << (exponent - 1);
        return (code & 8) != 0 ? -magnitude : magnitude;
    }
};

// The greatest exponent whose largest value, 6 * 2^(e - 127), is a finite float; 255 is NaN.
inline constexpr int kE8m0Finite = 252;
inline constexpr int kE8m0One = 127;
// Half of 2^(e - 127): the unit of E2m1::value. Exact, also where it is subnormal (e < 2).
THIMBLE_HOST_DEVICE inline float e8m0_half_to_f32(std::uint8_t e) {
    return bits_to_float(e < 2 ? 0x00200000u << e : static_cast<std::uint32_t>(e - 1) << 23);
}

}  // namespace thimble
