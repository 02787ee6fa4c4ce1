// SPDX-License-Identifier: Apache-2.0
// Logits to gradients of the cross entropy, in place: one block of 256 threads per row. Floor: 8
// bytes moved per element. No shared memory; occupancy is bound by the number of rows.
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) loss_gradient_kernel(LossGradient p) {
    float* z = p.z + blockIdx.x * p.stride;
    const double* stats = p.stats + 3 * blockIdx.x;
    const auto shift = static_cast<float>(stats[0]);
    const auto factor = static_cast<float>(p.scale / stats[1]);
    const auto scale = static_cast<float>(p.scale);
    const std::int64_t target = p.targets[blockIdx.x] - p.first;
    for (std::int64_t i = threadIdx.x; i < p.cols; i += kThreads) {
        const float gradient = factor * expf(z[i] - shift);
        z[i] = i == target ? gradient - scale : gradient;
    }
}

}  // namespace

bool supports_loss_gradient(const LossGradient& p) noexcept { return p.cols > 0; }

void loss_gradient(const LossGradient& p, Stream& stream) {
    launch("loss_gradient", loss_gradient_kernel, {static_cast<unsigned>(p.rows), kThreads}, stream,
           p);
}

}  // namespace thimble::cuda
