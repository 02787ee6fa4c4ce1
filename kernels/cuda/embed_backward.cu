// SPDX-License-Identifier: Apache-2.0
// Gradients of the rows of a table that tokens chose: a block of 128 threads per chosen row and 128
// columns adds what its tokens leave one after the other, so that no two add to one element at once
// and the order is always the same. Floor: 4 bytes read per element of dx, 8 moved per element of a
// chosen row. No shared memory.
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) embed_backward_kernel(EmbedBackward p) {
    const std::int64_t column = std::int64_t{blockIdx.y} * kThreads + threadIdx.x;
    if (column >= p.cols) return;
    float* to = p.table + p.rows[blockIdx.x] * p.table_stride + column;
    float sum = *to;
    for (std::int32_t i = p.starts[blockIdx.x]; i < p.starts[blockIdx.x + 1]; ++i)
        sum = fmaf(p.factor, p.dx[p.order[i] * p.dx_stride + column], sum);
    *to = sum;
}

}  // namespace

bool supports_embed_backward(const EmbedBackward& p) noexcept {
    return p.cols > 0 && p.cols <= std::int64_t{65535} * kThreads;
}

void embed_backward(const EmbedBackward& p, Stream& stream) {
    const dim3 grid(static_cast<unsigned>(p.runs), blocks_for(p.cols, kThreads));
    launch("embed_backward", embed_backward_kernel, {grid, kThreads}, stream, p);
}

}  // namespace thimble::cuda
