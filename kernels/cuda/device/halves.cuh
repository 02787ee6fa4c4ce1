// SPDX-License-Identifier: Apache-2.0
// Two f16 or bf16 in a word, the first in its lower half.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/device/launch.cuh"
#include "kernels/layout/layout.h"

namespace thimble::cuda {

template <LayoutId id>
__device__ __forceinline__ float2 floats_of(unsigned pair) {
    static_assert(id == LayoutId::k_f16 || id == LayoutId::k_bf16);
    if constexpr (id == LayoutId::k_bf16) {
        return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
    } else {
        return make_float2(__half2float(__ushort_as_half(static_cast<unsigned short>(pair))),
                           __half2float(__ushort_as_half(static_cast<unsigned short>(pair >> 16))));
    }
}

// To nearest, ties to even.
template <LayoutId id>
__device__ __forceinline__ unsigned short narrowed(float x) {
    static_assert(id == LayoutId::k_f16 || id == LayoutId::k_bf16);
    if constexpr (id == LayoutId::k_bf16) return __bfloat16_as_ushort(__float2bfloat16_rn(x));
    return __half_as_ushort(__float2half_rn(x));
}
template <LayoutId id>
__device__ __forceinline__ unsigned narrowed_pair(float low, float high) {
    return narrowed<id>(low) | static_cast<unsigned>(narrowed<id>(high)) << 16;
}

}  // namespace thimble::cuda
