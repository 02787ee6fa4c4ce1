// SPDX-License-Identifier: Apache-2.0
// Merges attention states, a warp to a row: the largest maximum first, then the states in ascending
// order. Floor: 4 bytes moved per state's dim. No shared memory; 128 threads, occupancy is bound by
// the number of rows.
#include <limits>

#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kChunks = 16;  // of 32 dims

__global__ void __launch_bounds__(32 * kWarps) attention_merge_kernel(AttentionMerge p) {
    const std::int64_t rows = p.tokens * p.heads;
    const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (row >= rows) return;
    float top = -std::numeric_limits<float>::infinity(), total = 0, o[kChunks];
    for (std::int64_t s = 0; s < p.splits; ++s) {
        if (p.sum[s * rows + row] != 0) top = fmaxf(top, p.max[s * rows + row]);
    }
#pragma unroll
    for (int j = 0; j < kChunks; ++j) o[j] = 0;
    for (std::int64_t s = 0; s < p.splits; ++s) {
        const float sum = p.sum[s * rows + row];
        if (sum == 0) continue;  // it saw nothing
        const float weight = sum * expf(p.max[s * rows + row] - top);
        const float* from = p.o + (s * rows + row) * p.head_dim;
        total += weight;
#pragma unroll
        for (int j = 0; j < kChunks; ++j) {
            if (32 * j + lane < p.head_dim) o[j] += weight * from[32 * j + lane];
        }
    }
    const float inverse = total == 0 ? 0.0f : 1.0f / total;
    float* out = p.out + row / p.heads * p.out_stride + row % p.heads * p.head_dim;
#pragma unroll
    for (int j = 0; j < kChunks; ++j) {
        if (32 * j + lane < p.head_dim) out[32 * j + lane] = o[j] * inverse;
    }
    if (lane == 0 && p.out_max != nullptr) p.out_max[row] = top, p.out_sum[row] = total;
}

}  // namespace

bool supports_attention_merge(const AttentionMerge& p) noexcept {
    return p.heads > 0 && p.head_dim > 0 && p.head_dim <= 32 * kChunks;
}

void attention_merge(const AttentionMerge& p, Stream& stream) {
    launch("attention_merge", attention_merge_kernel,
           {blocks_for(p.tokens * p.heads, kWarps), 32 * kWarps}, stream, p);
}

}  // namespace thimble::cuda
