// SPDX-License-Identifier: Apache-2.0
// What the kernels of one matrix and a few tokens share: a warp per row, eight rows per block, and
// sums of each lane that are added in a fixed order. A token's bits do not depend on how many
// tokens there are.
#pragma once

#include <type_traits>

#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {

inline constexpr int kMatvecRows = 8;  // of a block
inline constexpr int kMatvecThreads = 32 * kMatvecRows;

template <class Problem>
__device__ __forceinline__ void write_output(const Problem& p, std::int64_t token, std::int64_t row,
                                             float sum) {
    float& out = p.out[token * p.out_stride + row];
    if (p.bias != nullptr) sum += p.bias[row];
    out = p.accumulate ? out + sum : sum;
}

template <int kTokens>
__device__ __forceinline__ void write_lane_sums(const Matmul& p, std::int64_t row,
                                                const float (&sums)[kTokens]) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
        if (t >= p.tokens) return;
        const float sum = warp_sum(sums[t]);
        if (threadIdx.x % 32 == 0) write_output(p, t, row, sum);
    }
}

// Calls fn(integral_constant<int, n>{}) for the least n of 1, 2, 4 and 8 that holds the tokens.
template <class Fn>
void with_tokens(std::int64_t tokens, Fn&& fn) {
    if (tokens <= 1) return fn(std::integral_constant<int, 1>{});
    if (tokens <= 2) return fn(std::integral_constant<int, 2>{});
    if (tokens <= 4) return fn(std::integral_constant<int, 4>{});
    fn(std::integral_constant<int, 8>{});
}

template <class Problem>
LaunchShape matvec_shape(const Problem& p) {
    return {p.tokens > 0 ? blocks_for(p.weight.rows, kMatvecRows) : 0, kMatvecThreads};
}

[[nodiscard]] inline bool is_aligned(const void* p, std::size_t bytes) noexcept {
    return reinterpret_cast<std::uintptr_t>(p) % bytes == 0;
}

}  // namespace thimble::cuda
