// SPDX-License-Identifier: Apache-2.0
// IEEE half and bfloat16 <-> float, exact; narrowing rounds to nearest, ties to even. Portable bit
// code: the definition that every SIMD conversion must equal.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

#include "kernels/layout/rng.h"  // THIMBLE_HOST_DEVICE

namespace thimble {

THIMBLE_HOST_DEVICE inline float bits_to_float(std::uint32_t bits) {
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
}
THIMBLE_HOST_DEVICE inline std::uint32_t float_to_bits(float f) {
    std::uint32_t bits;
    std::memcpy(&bits, &f, sizeof bits);
    return bits;
}

THIMBLE_HOST_DEVICE inline float f16_to_f32(std::uint16_t h) {
#ifdef __CUDA_ARCH__
    return __half2float(__ushort_as_half(h));  // one instruction
#else
    const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
    const std::uint32_t exponent = (h >> 10) & 0x1fu;
    const std::uint32_t mantissa = h & 0x3ffu;
    if (exponent == 31) return bits_to_float(sign | 0x7f800000u | (mantissa << 13));
    if (exponent != 0) return bits_to_float(sign | ((exponent + 112) << 23) | (mantissa << 13));
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // zero and subnormals: exact
    return sign ? -magnitude : magnitude;
#endif
}

THIMBLE_HOST_DEVICE inline std::uint16_t f32_to_f16(float f) {
    const std::uint32_t bits = float_to_bits(f);
    const std::uint32_t sign = (bits >> 16) & 0x8000u;
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u)
        return static_cast<std::uint16_t>(sign | 0x7c00u);  // rounds to infinity
    if (magnitude < 0x38800000u) {                          // subnormal result or zero
        // Adding 0.5 puts the half's last place at the float's last place, so the sum rounds as
        // wanted.
        const std::uint32_t rounded = float_to_bits(bits_to_float(magnitude) + 0.5f);
        return static_cast<std::uint16_t>(sign | (rounded - 0x3f000000u));
    }
    const std::uint32_t odd = (magnitude >> 13) & 1u;
    return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

THIMBLE_HOST_DEVICE inline float bf16_to_f32(std::uint16_t b) {
    return bits_to_float(static_cast<std::uint32_t>(b) << 16);
}

THIMBLE_HOST_DEVICE inline std::uint16_t f32_to_bf16(float f) {
    const std::uint32_t bits = float_to_bits(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return static_cast<std::uint16_t>((bits >> 16) | 0x40u);  // stay NaN
    return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace thimble
