// SPDX-License-Identifier: Apache-2.0
// Attention of one split, flash-form ("FlashAttention-2", 2023; splits as in "Flash-Decoding",
// 2023): a block takes a tile of query rows (tokens and heads that share a K/V head) and one split,
// and walks its slots 32 by 32. Each K and V row is read once by the block, to floats in shared
// memory; a warp owns 2 (decode) or 8 or 4 (prefill) rows, a lane one slot while scoring and every
// 32nd column while adding values. A row's sums do not depend on the rows beside it.
// Floor: decode, the bytes of K and V once for each K/V head; prefill, 4 * head_dim flops per row
// and slot on the FP32 units. 128 threads; shared memory: (rows + 32) * head_dim floats and a
// little, which bounds occupancy: 37 KiB at 128 dims in prefill, 4 blocks to a processor of 164.
#include "kernels/cuda/device/flash.cuh"

namespace thimble::cuda {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;

struct RowAt {
    std::int64_t token;
    int head;
};
__device__ __forceinline__ RowAt row_at(const AttentionSplit& p, std::int64_t row) {
    const int group = p.heads / p.kv_heads;
    return {row / group, static_cast<int>(blockIdx.y) * group + static_cast<int>(row % group)};
}

// Rows times scale, and their positions; rows past the last are zero and see nothing.
template <int kTileRows, class Q, class Positions>
__device__ __forceinline__ void load_queries(const AttentionSplit& p, std::int64_t first,
                                             std::int64_t rows, Q&& q, Positions&& positions) {
    for (int i = threadIdx.x; i < kTileRows * p.head_dim; i += kThreads) {
        const std::int64_t row = first + i / p.head_dim;
        const RowAt at = row_at(p, row);
        q[i] = row < rows
                   ? p.q[at.token * p.q_stride + at.head * p.head_dim + i % p.head_dim] * p.scale
                   : 0.0f;
    }
    for (int i = threadIdx.x; i < kTileRows; i += kThreads)
        positions[i] = first + i < rows ? p.q_positions[row_at(p, first + i).token] : -1;
}

template <int kRows, int kChunks>
__device__ __forceinline__ void write_states(const AttentionSplit& p, std::int64_t first,
                                             std::int64_t rows, const States<kRows, kChunks>& s) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        const float sum = warp_sum(s.sum[r]);
        const std::int64_t row = first + threadIdx.x / 32 * kRows + r;
        if (row >= rows) continue;
        const RowAt at = row_at(p, row);
        const std::int64_t to = (blockIdx.z * p.tokens + at.token) * p.heads + at.head;
        const float inverse = sum == 0 ? 0.0f : 1.0f / sum;
#pragma unroll
        for (int j = 0; j < kChunks; ++j) {
            if (32 * j + lane < p.head_dim)
                p.o[to * p.head_dim + 32 * j + lane] = s.o[r][j] * inverse;
        }
        if (lane == 0) p.max[to] = s.max[r], p.sum[to] = sum;
    }
}

// Grid: tiles of rows, K/V heads, splits.
template <int kRows, int kChunks>
__global__ void __launch_bounds__(kThreads) attention_split_kernel(AttentionSplit p) {
    constexpr int kTileRows = kWarps * kRows;
    THIMBLE_SHARED(std::int64_t, positions, kTileRows);
    THIMBLE_SHARED(float, weights, kTileRows* kTileSlots);
    THIMBLE_DYNAMIC_SHARED(float, dynamic);
    const int dim = p.head_dim, head = static_cast<int>(blockIdx.y);
    const auto q = shared_part<float>(dynamic, 0, kTileRows * dim);
    const auto tile = shared_part<float>(dynamic, kTileRows * dim, kTileSlots * (dim + kTilePad));
    const std::int64_t rows = p.tokens * (p.heads / p.kv_heads);
    const std::int64_t first = std::int64_t{blockIdx.x} * kTileRows;
    load_queries<kTileRows>(p, first, rows, q, positions);
    __syncthreads();
    std::int64_t low = positions[0], high = low;  // of the rows that exist
    for (int r = 1; r < kTileRows && first + r < rows; ++r) {
        const std::int64_t position = positions[r];
        low = position < low ? position : low, high = position > high ? position : high;
    }
    States<kRows, kChunks> s;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        s.max[r] = kLowest, s.sum[r] = 0;
#pragma unroll
        for (int j = 0; j < kChunks; ++j) s.o[r][j] = 0;
    }
    for (int i = 0; i < kSplitSlots; i += kTileSlots) {
        const std::int64_t slot = std::int64_t{blockIdx.z} * kSplitSlots + i;
        const std::int64_t key = key_position(p, slot + threadIdx.x % 32);
        const bool seen =
            key >= 0 && key <= high && (p.window == 0 || low - key < p.window || key < p.sinks);
        if (!__any_sync(kAllLanes, seen)) continue;  // the same in every warp
        load_tile(p, p.k, head, slot, tile);
        __syncthreads();
        float score[kRows];
        score_rows(q, tile, dim, score);
        soften(p, positions, key, score, s, weights);
        __syncthreads();
        load_tile(p, p.v, head, slot, tile);
        __syncthreads();
        add_values(tile, weights, dim, s.o);
        __syncthreads();
    }
    write_states(p, first, rows, s);
}

template <int kRows, int kChunks>
void start(const AttentionSplit& p, Stream& stream) {
    constexpr int kTileRows = kWarps * kRows;
    const std::int64_t rows = p.tokens * (p.heads / p.kv_heads);
    LaunchShape shape;
    shape.grid = {blocks_for(rows, kTileRows), static_cast<unsigned>(p.kv_heads),
                  static_cast<unsigned>(splits_of(p.slots))};
    shape.block = kThreads;
    shape.shared_bytes =
        sizeof(float) *
        static_cast<std::size_t>(kTileRows * p.head_dim + kTileSlots * (p.head_dim + kTilePad));
    launch("attention_split", attention_split_kernel<kRows, kChunks>, shape, stream, p);
}

}  // namespace

bool supports_attention_split(const AttentionSplit& p) noexcept {
    return p.head_dim > 0 && p.head_dim % 8 == 0 && p.head_dim <= 512 && p.kv_heads > 0 &&
           p.heads % p.kv_heads == 0 && supports_rows(p.k, p.head_dim) &&
           supports_rows(p.v, p.head_dim);
}

void attention_split(const AttentionSplit& p, Stream& stream) {
    const bool few = p.tokens * (p.heads / p.kv_heads) <= 2 * kWarps;
    if (p.head_dim <= 64) return few ? start<2, 2>(p, stream) : start<8, 2>(p, stream);
    if (p.head_dim <= 128) return few ? start<2, 4>(p, stream) : start<8, 4>(p, stream);
    if (p.head_dim <= 256) return few ? start<2, 8>(p, stream) : start<4, 8>(p, stream);
    return few ? start<2, 16>(p, stream) : start<4, 16>(p, stream);
}

}  // namespace thimble::cuda
