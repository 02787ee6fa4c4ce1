// SPDX-License-Identifier: Apache-2.0
// E4M3: a sign, four exponent bits of bias 7 and three of mantissa; 0x7f and 0xff are NaN, there is
// no infinity, the largest value is 448 ("FP8 Formats for Deep Learning", 2022).
#pragma once

#include "kernels/layout/half.h"

namespace thimble {

inline constexpr float kE4m3Most = 448.0f;

THIMBLE_HOST_DEVICE inline bool e4m3_is_nan(std::uint8_t code) { return (code & 0x7f) == 0x7f; }
// Moved to a half's exponent the bits say 2^-8 times the value.
THIMBLE_HOST_DEVICE inline float e4m3_to_f32(std::uint8_t code) {
    const unsigned half = (code & 0x80u) << 8 | (code & 0x7fu) << 7;
    return f16_to_f32(static_cast<std::uint16_t>(half)) * 256.0f;
}
// To nearest, ties to even; above the largest value that one; NaN stays NaN.
inline std::uint8_t f32_to_e4m3(float f) {
    const std::uint32_t bits = float_to_bits(f);
    const std::uint32_t sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<std::uint8_t>(sign | 0x7fu);
    if (bits_to_float(magnitude) >= kE4m3Most) return static_cast<std::uint8_t>(sign | 0x7eu);
    if (magnitude < 0x3c800000u) {  // below 2^-6 the last place is 2^-9
        const float rounded = bits_to_float(magnitude) + 16384.0f;  // whose last place that is
        return static_cast<std::uint8_t>(sign | (float_to_bits(rounded) - 0x46800000u));
    }
    const std::uint32_t odd = magnitude >> 20 & 1u;
    const std::uint32_t rounded = magnitude + 0x7ffffu + odd - (120u << 23);
    return static_cast<std::uint8_t>(sign | rounded >> 20);
}

}  // namespace thimble
