// SPDX-License-Identifier: Apache-2.0
// Backward of the RMS norm: a warp to a row, which it reads twice (the second time from the L1 or
// L2). Floor: 12 bytes moved per element, 16 where dx accumulates. No shared memory; 128 threads,
// occupancy is bound by nothing but the number of rows.
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;

__global__ void __launch_bounds__(kThreads) rms_norm_backward_kernel(RmsNormBackward p) {
    const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (row >= p.rows) return;
    const float* x = p.x + row * p.x_stride;
    const float* dy = p.dy + row * p.dy_stride;
    float* dx = p.dx + row * p.dx_stride;
    float along = 0;
    for (std::int64_t i = lane; i < p.cols; i += 32) along = fmaf(dy[i] * p.weight[i], x[i], along);
    along = warp_sum(along);
    const float r = p.r[row];
    const float factor = r * r * (along / static_cast<float>(p.cols));
    for (std::int64_t i = lane; i < p.cols; i += 32) {
        const float gradient = r * (dy[i] * p.weight[i] - x[i] * factor);
        dx[i] = p.accumulate ? dx[i] + gradient : gradient;
    }
}

}  // namespace

bool supports_rms_norm_backward(const RmsNormBackward& p) noexcept { return p.cols > 0; }

void rms_norm_backward(const RmsNormBackward& p, Stream& stream) {
    launch("rms_norm_backward", rms_norm_backward_kernel, {blocks_for(p.rows, kWarps), kThreads},
           stream, p);
}

}  // namespace thimble::cuda
