// SPDX-License-Identifier: Apache-2.0
// Sums and maxima over the lanes of a warp and the threads of a block; every thread gets the
// result, always in the same order of operands.
#pragma once

#include "kernels/cuda/device/launch.cuh"

namespace thimble::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ float warp_sum(float x) {
    for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAllLanes, x, lanes);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
    for (int lanes = 16; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, lanes));
    return x;
}

// All threads of the block, whole warps, at most 1024; `scratch` is shared, one float per warp.
template <class Scratch>
__device__ __forceinline__ float block_sum(float x, Scratch&& scratch) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    x = 0;
    for (unsigned w = 0; w < warps; ++w) x += scratch[w];
    return x;
}
template <class Scratch>
__device__ __forceinline__ float block_max(float x, Scratch&& scratch) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    x = scratch[0];
    for (unsigned w = 1; w < warps; ++w) x = fmaxf(x, scratch[w]);
    return x;
}

}  // namespace thimble::cuda
