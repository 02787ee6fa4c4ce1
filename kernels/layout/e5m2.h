// SPDX-License-Identifier: Apache-2.0
// E5M2: a sign, five exponent bits of bias 15 and two of mantissa: the upper byte of a half; above
// 0x7b are infinity and NaN, the largest value is 57344 ("FP8 Formats for Deep Learning", 2022).
#pragma once

#include "kernels/layout/half.h"

namespace thimble {

inline constexpr float kE5m2Most = 57344.0f;

THIMBLE_HOST_DEVICE inline float e5m2_to_f32(std::uint8_t code) {
    return f16_to_f32(static_cast<std::uint16_t>(code << 8));
}
// To nearest, ties to even; above the largest value that one; NaN stays NaN.
inline std::uint8_t f32_to_e5m2(float f) {
    const std::uint32_t bits = float_to_bits(f);
    const std::uint32_t sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<std::uint8_t>(sign | 0x7fu);
    if (bits_to_float(magnitude) >= kE5m2Most) return static_cast<std::uint8_t>(sign | 0x7bu);
    if (magnitude < 0x38800000u) {  // below 2^-14 the last place is 2^-16
        const float rounded = bits_to_float(magnitude) + 128.0f;  // whose last place that is
        return static_cast<std::uint8_t>(sign | (float_to_bits(rounded) - 0x43000000u));
    }
    const std::uint32_t odd = magnitude >> 21 & 1u;
    const std::uint32_t rounded = magnitude + 0xfffffu + odd - (112u << 23);
    return static_cast<std::uint8_t>(sign | rounded >> 21);
}

}  // namespace thimble
