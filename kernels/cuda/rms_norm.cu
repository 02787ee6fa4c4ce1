// SPDX-License-Identifier: Apache-2.0
// RMS norm: one block of 256 threads per row, or a warp where a row is a head, 256 elements at the
// most; the row read twice (the second time from the L1 or L2). Floor: 8 bytes moved per element.
// Shared memory: 32 bytes, with warps none. Occupancy is bound by nothing but the number of rows;
// with one row (decode) the launch itself is the cost.
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

constexpr int kThreads = 256, kNarrow = 256;

// By `step` threads, this one the first-th.
__device__ __forceinline__ float squares(const RmsNorm& p, std::int64_t row, int first, int step) {
    const float* x = p.x + row * p.x_stride;
    float sum = 0;
    for (std::int64_t i = first; i < p.cols; i += step) sum += x[i] * x[i];
    return sum;
}
__device__ __forceinline__ void write(const RmsNorm& p, std::int64_t row, int first, int step,
                                      float sum) {
    const float* x = p.x + row * p.x_stride;
    float* out = p.out + row * p.out_stride;
    const float factor = 1.0f / sqrtf(sum / static_cast<float>(p.cols) + p.epsilon);
    for (std::int64_t i = first; i < p.cols; i += step) out[i] = x[i] * factor * p.weight[i];
}

__global__ void __launch_bounds__(kThreads) rms_norm_kernel(RmsNorm p) {
    THIMBLE_SHARED(float, scratch, kThreads / 32);
    const int thread = static_cast<int>(threadIdx.x);
    const float sum = block_sum(squares(p, blockIdx.x, thread, kThreads), scratch);
    write(p, blockIdx.x, thread, kThreads, sum);
}

__global__ void __launch_bounds__(kThreads) narrow_rms_norm_kernel(RmsNorm p) {
    const std::int64_t row = std::int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (row >= p.rows) return;
    write(p, row, lane, 32, warp_sum(squares(p, row, lane, 32)));
}

}  // namespace

bool supports_rms_norm(const RmsNorm& p) noexcept { return p.cols > 0; }

void rms_norm(const RmsNorm& p, Stream& stream) {
    if (p.cols <= kNarrow)  // whatever the rows: a row's bits do not depend on them
        return launch("rms_norm", narrow_rms_norm_kernel,
                      {blocks_for(p.rows, kThreads / 32), kThreads}, stream, p);
    launch("rms_norm", rms_norm_kernel, {static_cast<unsigned>(p.rows), kThreads}, stream, p);
}

}  // namespace thimble::cuda
