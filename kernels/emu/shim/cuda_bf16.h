// SPDX-License-Identifier: Apache-2.0
// The toolkit's bfloat16 type on the host: conversions round to nearest, ties to even.
#pragma once

#include "cuda_runtime.h"
#include "kernels/layout/half.h"

struct __nv_bfloat16 {
    std::uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

inline float __bfloat162float(__nv_bfloat16 b) { return thimble::bf16_to_f32(b.bits); }
inline __nv_bfloat16 __float2bfloat16_rn(float f) { return {thimble::f32_to_bf16(f)}; }
inline float2 __bfloat1622float2(__nv_bfloat162 b) {
    return {__bfloat162float(b.x), __bfloat162float(b.y)};
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 b) { return b.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }
