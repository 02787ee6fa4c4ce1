// SPDX-License-Identifier: Apache-2.0
// RMS norm: one block of 256 threads per row, the row read twice (the second time from the L2).
// Floor: 8 bytes moved per element. Shared memory: 32 bytes. Occupancy is bound by nothing but the
// number of rows; with one row (decode) the launch itself is the cost.
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) rms_norm_kernel(RmsNorm p) {
    THIMBLE_SHARED(float, scratch, kThreads / 32);
    const float* x = p.x + blockIdx.x * p.x_stride;
    float* out = p.out + blockIdx.x * p.out_stride;
    float sum = 0;
    for (std::int64_t i = threadIdx.x; i < p.cols; i += kThreads) sum += x[i] * x[i];
    sum = block_sum(sum, scratch);
    const float factor = 1.0f / sqrtf(sum / static_cast<float>(p.cols) + p.epsilon);
    for (std::int64_t i = threadIdx.x; i < p.cols; i += kThreads)
        out[i] = x[i] * factor * p.weight[i];
}

}  // namespace

bool supports_rms_norm(const RmsNorm& p) noexcept { return p.cols > 0; }

void rms_norm(const RmsNorm& p, Stream& stream) {
    launch("rms_norm", rms_norm_kernel, {static_cast<unsigned>(p.rows), kThreads}, stream, p);
}

}  // namespace thimble::cuda
