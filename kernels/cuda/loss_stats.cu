// SPDX-License-Identifier: Apache-2.0
// Statistics of the cross entropy, a tile of logits after the other: one block of 256 threads per
// row, which reads the tile twice (the second time from the L2). Floor: 4 bytes moved per element.
// Shared memory: 32 bytes. Occupancy is bound by the number of rows.
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) loss_stats_kernel(LossStats p) {
    THIMBLE_SHARED(float, scratch, kThreads / 32);
    const float* z = p.z + blockIdx.x * p.stride;
    float top = z[0], sum = 0;
    for (std::int64_t i = threadIdx.x; i < p.cols; i += kThreads) top = fmaxf(top, z[i]);
    top = block_max(top, scratch);
    for (std::int64_t i = threadIdx.x; i < p.cols; i += kThreads) sum += expf(z[i] - top);
    sum = block_sum(sum, scratch);
    if (threadIdx.x != 0) return;
    double* stats = p.stats + 3 * blockIdx.x;
    const double before = stats[0], here = top, largest = fmax(before, here);
    stats[0] = largest;
    stats[1] = (stats[1] > 0 ? stats[1] * exp(before - largest) : 0.0) + sum * exp(here - largest);
    const std::int64_t target = p.targets[blockIdx.x] - p.first;
    if (target >= 0 && target < p.cols) stats[2] = z[target];
}

}  // namespace

bool supports_loss_stats(const LossStats& p) noexcept { return p.cols > 0; }

void loss_stats(const LossStats& p, Stream& stream) {
    launch("loss_stats", loss_stats_kernel, {static_cast<unsigned>(p.rows), kThreads}, stream, p);
}

}  // namespace thimble::cuda
