// SPDX-License-Identifier: Apache-2.0
// Dropout by counter-based random numbers: a thread owns the four elements that share a draw, the
// last of one row and the first of the next among them. Floor: 8 bytes moved per element. No shared
// memory; bound by the draws' integer arithmetic.
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/layout/rng.h"

namespace thimble::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) dropout_kernel(Dropout p) {
    const std::int64_t draw = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
    const std::int64_t elements = p.rows * p.cols;
    if (4 * draw >= elements) return;
    const Philox4 words = philox(p.seed, static_cast<std::uint64_t>(draw), p.stream);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const std::int64_t element = 4 * draw + i;
        if (element >= elements) return;
        const std::int64_t row = element / p.cols, column = element % p.cols;
        const float x = p.x[row * p.x_stride + column];
        p.out[row * p.out_stride + column] = unit_float(words.v[i]) < p.rate ? 0.0f : x * p.factor;
    }
}

}  // namespace

bool supports_dropout(const Dropout& p) noexcept { return p.cols > 0; }

void dropout(const Dropout& p, Stream& stream) {
    launch("dropout", dropout_kernel, {blocks_for(p.rows * p.cols, 4 * kThreads), kThreads}, stream,
           p);
}

}  // namespace thimble::cuda
