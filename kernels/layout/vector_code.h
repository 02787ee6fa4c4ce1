// SPDX-License-Identifier: Apache-2.0
// Numbers of an embedding vector as they are stored: each by itself, without a scale of the vector.
// A vector's codes take whole bytes; what is left over of the last one is zero.
//   f32, f16, e4m3, e5m2  the number, little-endian
//   u8                    0 to 255; what they stand for is the dimension's affair
//   e2m1                  two in a byte, the first in bits 0 to 3
//   sign                  eight in a byte, the first in bit 7 (as numpy.packbits has them): 1 where
//                         the number is above zero; it stands for 1, 0 for -1
#pragma once

#include "kernels/layout/e2m1.h"
#include "kernels/layout/e4m3.h"
#include "kernels/layout/e5m2.h"

namespace thimble {

enum class VectorCode : std::uint8_t { kF32, kF16, kE4m3, kE5m2, kU8, kE2m1, kSign };

THIMBLE_HOST_DEVICE constexpr int bits_of(VectorCode code) noexcept {
    switch (code) {
        case VectorCode::kF32:
            return 32;
        case VectorCode::kF16:
            return 16;
        case VectorCode::kE2m1:
            return 4;
        case VectorCode::kSign:
            return 1;
        default:
            return 8;
    }
}
THIMBLE_HOST_DEVICE constexpr std::int64_t vector_bytes(VectorCode code,
                                                        std::int64_t dims) noexcept {
    return (dims * bits_of(code) + 7) / 8;
}

// To nearest, ties to even; above 6 that. The magnitudes are 0 .5 1 1.5 2 3 4 6, and the halfway
// points between odd and even codes go to the even one.
inline std::uint8_t f32_to_e2m1(float f) {
    constexpr float kHalfway[7] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
    const std::uint32_t bits = float_to_bits(f);
    const float magnitude = bits_to_float(bits & 0x7fffffffu);
    unsigned code = 0;
    while (code < 7 &&
           (magnitude > kHalfway[code] || (magnitude == kHalfway[code] && code % 2 == 1)))
        ++code;
    return static_cast<std::uint8_t>((bits >> 31) << 3 | code);
}

// Number k of a vector.
THIMBLE_HOST_DEVICE inline float vector_value(VectorCode code, const std::uint8_t* codes,
                                              std::int64_t k) {
    switch (code) {
        case VectorCode::kF32: {
            float f;
            std::memcpy(&f, codes + 4 * k, sizeof f);
            return f;
        }
        case VectorCode::kF16: {
            std::uint16_t h;
            std::memcpy(&h, codes + 2 * k, sizeof h);
            return f16_to_f32(h);
        }
        case VectorCode::kE4m3:
            return e4m3_to_f32(codes[k]);
        case VectorCode::kE5m2:
            return e5m2_to_f32(codes[k]);
        case VectorCode::kU8:
            return static_cast<float>(codes[k]);
        case VectorCode::kE2m1:
            return 0.5f * static_cast<float>(E2m1::value(codes[k / 2] >> k % 2 * 4 & 15));
        case VectorCode::kSign:
            return (codes[k / 8] >> (7 - k % 8) & 1) != 0 ? 1.0f : -1.0f;
    }
    return 0;
}

}  // namespace thimble
