// SPDX-License-Identifier: Apache-2.0
// The toolkit's half type on the host: conversions round to nearest, ties to even.
#pragma once

#include "cuda_runtime.h"
#include "kernels/layout/half.h"

struct __half {
    std::uint16_t bits;
};
struct alignas(4) __half2 {
    __half x, y;
};
using half = __half;
using half2 = __half2;

inline float __half2float(__half h) { return thimble::f16_to_f32(h.bits); }
inline __half __float2half_rn(float f) { return {thimble::f32_to_f16(f)}; }
inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
inline __half2 __floats2half2_rn(float x, float y) {
    return {__float2half_rn(x), __float2half_rn(y)};
}
inline unsigned short __half_as_ushort(__half h) { return h.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
