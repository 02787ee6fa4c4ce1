// SPDX-License-Identifier: Apache-2.0
// Backward of attention within a document, probabilities computed anew ("FlashAttention-2", 2023)
// in three launches without atomics: log-sum-exp and sum(p dp) of each query; then dk and dv, a
// block to a tile of keys, which walks all queries that see them, head by head of those that share
// the keys; then dq, a block to a tile of queries of one head. In this order dq may replace dout.
// A warp owns 8 or 4 rows of its tile, a lane one of the 32 rows on the other side while scoring
// and every 32nd column while adding.
// Floor: 18 * head_dim flops per visible pair on the FP32 units (10 if nothing were computed anew).
// 128 threads; shared memory: (2 * rows + 64) * head_dim floats and a little, 74 KiB at 128 dims,
// which bounds occupancy: 2 blocks to a processor of 164 KiB.
#include "kernels/cuda/device/flash.cuh"

namespace thimble::cuda {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps, kSlots = kTileSlots;

// One head of a matrix.
struct Head {
    const float* x;
    std::int64_t stride;
};
__device__ __forceinline__ Head head_of(const float* x, std::int64_t stride, int head, int dim) {
    return {x + std::int64_t{head} * dim, stride};
}

// Rows [first, first + count), `pitch` floats apart; those from `end` on are 0. By all threads.
template <class Tile>
__device__ __forceinline__ void load(const Head& from, std::int64_t first, std::int64_t end,
                                     int count, int dim, int pitch, Tile&& tile) {
    for (int i = threadIdx.x; i < count * dim; i += kThreads) {
        const int row = i / dim, column = i % dim;
        tile[row * pitch + column] =
            first + row < end ? from.x[(first + row) * from.stride + column] : 0.0f;
    }
}

__device__ __forceinline__ std::int64_t larger(std::int64_t a, std::int64_t b) {
    return a > b ? a : b;
}
__device__ __forceinline__ std::int64_t smaller(std::int64_t a, std::int64_t b) {
    return a < b ? a : b;
}
__device__ __forceinline__ bool sees(const AttentionBackward& p, std::int64_t query,
                                     std::int64_t key) {
    return query < p.tokens && key <= query && (p.window == 0 || query - key < p.window);
}
// The first key that a tile of queries from `query` on sees, rounded down to a tile.
__device__ __forceinline__ std::int64_t first_tile(const AttentionBackward& p, std::int64_t query) {
    return p.window == 0 ? 0 : larger(0, query - p.window + 1) / kSlots * kSlots;
}

struct Logit {
    float value, slope;
};
__device__ __forceinline__ Logit logit_of(const AttentionBackward& p, float score) {
    const float x = score * p.scale;
    if (p.softcap == 0) return {x, p.scale};
    const float t = tanhf(x / p.softcap);
    return {p.softcap * t, (1.0f - t * t) * p.scale};
}

// What a warp's rows meet of one slot: p and ds of each pair.
template <int kRows>
struct Pairs {
    float p[kRows], ds[kRows];
};

// The shared memory of a block: two matrices of its own rows, two of the slots at hand.
template <int kRows, class Dynamic>
struct Tiles {
    static constexpr int kTileRows = kWarps * kRows;
    Dynamic dynamic;
    int dim;
    __device__ __forceinline__ auto rows(int i) const {
        return shared_part<float>(dynamic, i * kTileRows * dim, kTileRows * dim);
    }
    __device__ __forceinline__ auto slots(int i) const {
        const int size = kSlots * (dim + kTilePad);
        return shared_part<float>(dynamic, 2 * kTileRows * dim + i * size, size);
    }
};
template <int kRows>
std::size_t shared_bytes(int dim) {
    return sizeof(float) *
           static_cast<std::size_t>(2 * kWarps * kRows * dim + 2 * kSlots * (dim + kTilePad));
}

// Log-sum-exp and sum(p dp). Grid: tiles of queries, heads.
template <int kRows>
__global__ void __launch_bounds__(kThreads) attention_stats_kernel(AttentionBackward p) {
    THIMBLE_DYNAMIC_SHARED(float, dynamic);
    const Tiles<kRows, decltype(dynamic)> tiles{dynamic, p.head_dim};
    constexpr int kTileRows = kWarps * kRows;
    const int head = static_cast<int>(blockIdx.y), kv = head / (p.heads / p.kv_heads);
    const int dim = p.head_dim, lane = threadIdx.x % 32;
    const std::int64_t first = std::int64_t{blockIdx.x} * kTileRows;
    const std::int64_t row = first + threadIdx.x / 32 * kRows;
    const std::int64_t end = smaller(first + kTileRows, p.tokens);
    load(head_of(p.q, p.q_stride, head, dim), first, end, kTileRows, dim, dim, tiles.rows(0));
    load(head_of(p.dout, p.dout_stride, head, dim), first, end, kTileRows, dim, dim, tiles.rows(1));
    float max[kRows], sum[kRows], along[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) max[r] = kLowest, sum[r] = 0, along[r] = 0;
    for (std::int64_t key = first_tile(p, first); key < end; key += kSlots) {
        load(head_of(p.k, p.k_stride, kv, dim), key, end, kSlots, dim, dim + kTilePad,
             tiles.slots(0));
        load(head_of(p.v, p.v_stride, kv, dim), key, end, kSlots, dim, dim + kTilePad,
             tiles.slots(1));
        __syncthreads();
        float score[kRows], dp[kRows];
        score_rows(tiles.rows(0), tiles.slots(0), dim, score);
        score_rows(tiles.rows(1), tiles.slots(1), dim, dp);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const float x = sees(p, row + r, key + lane) ? logit_of(p, score[r]).value : kLowest;
            const float top = fmaxf(max[r], warp_max(x));
            const float factor = max[r] == top ? 1.0f : expf(max[r] - top);
            const float weight = x == kLowest ? 0.0f : expf(x - top);
            max[r] = top;
            sum[r] = sum[r] * factor + weight;
            along[r] = along[r] * factor + weight * dp[r];
        }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        const float total = warp_sum(sum[r]), product = warp_sum(along[r]);
        if (lane != 0 || row + r >= p.tokens) continue;
        float* to = p.stats + head * p.tokens + row + r;
        to[0] = max[r] + logf(total);
        to[p.heads * p.tokens] = product / total;
    }
}

__device__ __forceinline__ void pair(const AttentionBackward& p, int head, std::int64_t query,
                                     std::int64_t key, float score, float dp, float& weight,
                                     float& ds) {
    weight = 0, ds = 0;
    if (!sees(p, query, key)) return;
    const float* stats = p.stats + head * p.tokens + query;
    const Logit logit = logit_of(p, score);
    weight = expf(logit.value - stats[0]);
    ds = weight * (dp - stats[p.heads * p.tokens]) * logit.slope;
}

// A warp's rows of weights for add_values, which the whole warp reads.
template <int kRows, class Weights>
__device__ __forceinline__ void put(const float (&values)[kRows], Weights&& weights) {
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * kRows;
    __syncwarp();
#pragma unroll
    for (int r = 0; r < kRows; ++r) weights[(row + r) * kSlots + lane] = values[r];
    __syncwarp();
}

template <int kRows, int kChunks>
__device__ __forceinline__ void write(const float (&sums)[kRows][kChunks], std::int64_t row,
                                      std::int64_t end, int dim, float* out, std::int64_t stride) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int j = 0; j < kChunks; ++j) {
            if (row + r < end && 32 * j + lane < dim)
                out[(row + r) * stride + 32 * j + lane] = sums[r][j];
        }
    }
}

// dk and dv. Grid: tiles of keys, K/V heads.
template <int kRows, int kChunks>
__global__ void __launch_bounds__(kThreads) attention_keys_kernel(AttentionBackward p) {
    THIMBLE_SHARED(float, weights, kWarps* kRows* kSlots);
    THIMBLE_DYNAMIC_SHARED(float, dynamic);
    const Tiles<kRows, decltype(dynamic)> tiles{dynamic, p.head_dim};
    constexpr int kTileRows = kWarps * kRows;
    const int kv = static_cast<int>(blockIdx.y), group = p.heads / p.kv_heads;
    const int dim = p.head_dim, lane = threadIdx.x % 32;
    const std::int64_t first = std::int64_t{blockIdx.x} * kTileRows;
    const std::int64_t row = first + threadIdx.x / 32 * kRows;
    const std::int64_t last = smaller(first + kTileRows, p.tokens);
    const std::int64_t end = p.window == 0 ? p.tokens : smaller(p.tokens, last - 1 + p.window);
    load(head_of(p.k, p.k_stride, kv, dim), first, last, kTileRows, dim, dim, tiles.rows(0));
    load(head_of(p.v, p.v_stride, kv, dim), first, last, kTileRows, dim, dim, tiles.rows(1));
    float dk[kRows][kChunks] = {}, dv[kRows][kChunks] = {};
    for (int head = kv * group; head < (kv + 1) * group; ++head) {
        for (std::int64_t query = first; query < end; query += kSlots) {
            load(head_of(p.q, p.q_stride, head, dim), query, end, kSlots, dim, dim + kTilePad,
                 tiles.slots(0));
            load(head_of(p.dout, p.dout_stride, head, dim), query, end, kSlots, dim, dim + kTilePad,
                 tiles.slots(1));
            __syncthreads();
            float score[kRows], dp[kRows], weight[kRows], ds[kRows];
            score_rows(tiles.rows(0), tiles.slots(0), dim, score);
            score_rows(tiles.rows(1), tiles.slots(1), dim, dp);
#pragma unroll
            for (int r = 0; r < kRows; ++r)
                pair(p, head, query + lane, row + r, score[r], dp[r], weight[r], ds[r]);
            put(weight, weights);
            add_values(tiles.slots(1), weights, dim, dv);
            put(ds, weights);
            add_values(tiles.slots(0), weights, dim, dk);
            __syncthreads();
        }
    }
    write(dk, row, last, dim, p.dk + std::int64_t{kv} * dim, p.dk_stride);
    write(dv, row, last, dim, p.dv + std::int64_t{kv} * dim, p.dv_stride);
}

// dq. Grid: tiles of queries, heads.
template <int kRows, int kChunks>
__global__ void __launch_bounds__(kThreads) attention_queries_kernel(AttentionBackward p) {
    THIMBLE_SHARED(float, weights, kWarps* kRows* kSlots);
    THIMBLE_DYNAMIC_SHARED(float, dynamic);
    const Tiles<kRows, decltype(dynamic)> tiles{dynamic, p.head_dim};
    constexpr int kTileRows = kWarps * kRows;
    const int head = static_cast<int>(blockIdx.y), kv = head / (p.heads / p.kv_heads);
    const int dim = p.head_dim, lane = threadIdx.x % 32;
    const std::int64_t first = std::int64_t{blockIdx.x} * kTileRows;
    const std::int64_t row = first + threadIdx.x / 32 * kRows;
    const std::int64_t end = smaller(first + kTileRows, p.tokens);
    load(head_of(p.q, p.q_stride, head, dim), first, end, kTileRows, dim, dim, tiles.rows(0));
    load(head_of(p.dout, p.dout_stride, head, dim), first, end, kTileRows, dim, dim, tiles.rows(1));
    float dq[kRows][kChunks] = {};
    for (std::int64_t key = first_tile(p, first); key < end; key += kSlots) {
        load(head_of(p.k, p.k_stride, kv, dim), key, end, kSlots, dim, dim + kTilePad,
             tiles.slots(0));
        load(head_of(p.v, p.v_stride, kv, dim), key, end, kSlots, dim, dim + kTilePad,
             tiles.slots(1));
        __syncthreads();
        float score[kRows], dp[kRows], weight[kRows], ds[kRows];
        score_rows(tiles.rows(0), tiles.slots(0), dim, score);
        score_rows(tiles.rows(1), tiles.slots(1), dim, dp);
#pragma unroll
        for (int r = 0; r < kRows; ++r)
            pair(p, head, row + r, key + lane, score[r], dp[r], weight[r], ds[r]);
        put(ds, weights);
        add_values(tiles.slots(0), weights, dim, dq);
        __syncthreads();
    }
    write(dq, row, end, dim, p.dq + std::int64_t{head} * dim, p.dq_stride);
}

// Rows of a warp: of queries, and of keys, for which it holds twice the sums.
template <int kRows, int kKeyRows, int kChunks>
void start(const AttentionBackward& p, Stream& stream) {
    const auto shape = [&](int rows, int heads, std::size_t bytes) {
        return LaunchShape{
            {blocks_for(p.tokens, kWarps * rows), static_cast<unsigned>(heads)}, kThreads, bytes};
    };
    const LaunchShape queries = shape(kRows, p.heads, shared_bytes<kRows>(p.head_dim));
    const LaunchShape keys = shape(kKeyRows, p.kv_heads, shared_bytes<kKeyRows>(p.head_dim));
    launch("attention_stats", attention_stats_kernel<kRows>, queries, stream, p);
    launch("attention_keys", attention_keys_kernel<kKeyRows, kChunks>, keys, stream, p);
    launch("attention_queries", attention_queries_kernel<kRows, kChunks>, queries, stream, p);
}

}  // namespace

bool supports_attention_backward(const AttentionBackward& p) noexcept {
    return p.head_dim > 0 && p.head_dim % 4 == 0 && p.head_dim <= 256 && p.kv_heads > 0 &&
           p.heads % p.kv_heads == 0 && p.heads <= 65535;
}

void attention_backward(const AttentionBackward& p, Stream& stream) {
    if (p.head_dim <= 64) return start<8, 8, 2>(p, stream);
    if (p.head_dim <= 128) return start<8, 4, 4>(p, stream);
    start<4, 4, 8>(p, stream);
}

}  // namespace thimble::cuda
