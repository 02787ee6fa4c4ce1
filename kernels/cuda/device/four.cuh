// SPDX-License-Identifier: Apache-2.0
// Element-wise kernels: a thread owns four columns of a row, as one 128-bit vector where the row
// allows it.
#pragma once

#include "kernels/cuda/device/launch.cuh"

namespace thimble::cuda {

inline constexpr int kFourThreads = 256;

struct FourAt {
    std::int64_t row, col;
    int count;  // columns that exist; 0: nothing is left for this thread
};
__device__ __forceinline__ FourAt four_at(std::int64_t rows, std::int64_t cols) {
    const std::int64_t across = (cols + 3) / 4;
    const std::int64_t at = std::int64_t{blockIdx.x} * kFourThreads + threadIdx.x;
    const std::int64_t row = at / across, col = at % across * 4;
    if (row >= rows) return {0, 0, 0};
    return {row, col, cols - col < 4 ? static_cast<int>(cols - col) : 4};
}
inline LaunchShape four_shape(std::int64_t rows, std::int64_t cols) {
    return {blocks_for(rows * ((cols + 3) / 4), kFourThreads), kFourThreads};
}

__device__ __forceinline__ bool is_vector(const float* p, int count) {
    return count == 4 && reinterpret_cast<std::uintptr_t>(p) % sizeof(float4) == 0;
}
// Not through the read-only cache: what is read may be what this thread writes.
__device__ __forceinline__ float4 load_four(const float* p, int count) {
    if (is_vector(p, count)) return *reinterpret_cast<const float4*>(p);
    return make_float4(p[0], count > 1 ? p[1] : 0.0f, count > 2 ? p[2] : 0.0f,
                       count > 3 ? p[3] : 0.0f);
}
__device__ __forceinline__ void store_four(float* p, const float4& v, int count) {
    if (is_vector(p, count)) {
        *reinterpret_cast<float4*>(p) = v;
        return;
    }
    p[0] = v.x;
    if (count > 1) p[1] = v.y;
    if (count > 2) p[2] = v.z;
    if (count > 3) p[3] = v.w;
}

}  // namespace thimble::cuda
