// SPDX-License-Identifier: Apache-2.0
// What an RMS norm multiplies a row by: a warp to a row. Floor: 4 bytes moved per element. No
// shared memory; 128 threads, occupancy is bound by nothing but the number of rows.
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;

__global__ void __launch_bounds__(kThreads) inverse_rms_kernel(InverseRms p) {
    const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (row >= p.rows) return;
    const float* x = p.x + row * p.stride;
    float sum = 0;
    for (std::int64_t i = lane; i < p.cols; i += 32) sum = fmaf(x[i], x[i], sum);
    sum = warp_sum(sum);
    if (lane == 0) p.r[row] = 1.0f / sqrtf(sum / static_cast<float>(p.cols) + p.epsilon);
}

}  // namespace

bool supports_inverse_rms(const InverseRms& p) noexcept { return p.cols > 0; }

void inverse_rms(const InverseRms& p, Stream& stream) {
    launch("inverse_rms", inverse_rms_kernel, {blocks_for(p.rows, kWarps), kThreads}, stream, p);
}

}  // namespace thimble::cuda
