// SPDX-License-Identifier: Apache-2.0
// Flash attention of a warp's query rows against one tile of 32 slots in shared memory: a lane owns
// one slot while scoring, and every 32nd column while adding values.
#pragma once

#include <limits>

#include "kernels/cuda/device/kv_tile.cuh"
#include "kernels/cuda/device/reduce.cuh"

namespace thimble::cuda {

inline constexpr float kLowest = -std::numeric_limits<float>::infinity();

// A warp's rows: state so far, o not normalised; `sum` is this lane's share.
template <int kRows, int kChunks>
struct States {
    float o[kRows][kChunks], max[kRows], sum[kRows];
};

// score[r] = q[r] . k[lane]
template <int kRows, class Q, class K>
__device__ __forceinline__ void score_rows(Q&& q, K&& k, int dim, float (&score)[kRows]) {
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * kRows;
    float4 parts[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) parts[r] = make_float4(0, 0, 0, 0);
    for (int d = 0; d < dim; d += 4) {
        const float4 b = shared_load<float4>(k, lane * (dim + kTilePad) + d);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const float4 a = shared_load<float4>(q, (row + r) * dim + d);
            parts[r].x = fmaf(a.x, b.x, parts[r].x);
            parts[r].y = fmaf(a.y, b.y, parts[r].y);
            parts[r].z = fmaf(a.z, b.z, parts[r].z);
            parts[r].w = fmaf(a.w, b.w, parts[r].w);
        }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r)
        score[r] = (parts[r].x + parts[r].y) + (parts[r].z + parts[r].w);
}

// Scores to weights e^(score - max) in shared memory, 0 for what a row may not see; the states
// are brought to the new maximum.
template <int kRows, int kChunks, class Positions, class Weights>
__device__ __forceinline__ void soften(const AttentionSplit& p, Positions&& positions,
                                       std::int64_t key, const float (&score)[kRows],
                                       States<kRows, kChunks>& s, Weights&& weights) {
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * kRows;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        float x = score[r];
        if (p.softcap > 0) x = p.softcap * tanhf(x / p.softcap);
        if (!visible(p, positions[row + r], key)) x = kLowest;
        const float top = fmaxf(s.max[r], warp_max(x));
        const float factor = s.max[r] == top ? 1.0f : expf(s.max[r] - top);
        const float weight = x == kLowest ? 0.0f : expf(x - top);
        s.max[r] = top;
        s.sum[r] = s.sum[r] * factor + weight;
#pragma unroll
        for (int j = 0; j < kChunks; ++j) s.o[r][j] *= factor;
        weights[(row + r) * kTileSlots + lane] = weight;
    }
}

// o[r] += sum over the slots of weight * v[slot]
template <int kRows, int kChunks, class V, class Weights>
__device__ __forceinline__ void add_values(V&& v, Weights&& weights, int dim,
                                           float (&o)[kRows][kChunks]) {
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * kRows;
    for (int slot = 0; slot < kTileSlots; slot += 4) {
        float4 w[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r)
            w[r] = shared_load<float4>(weights, (row + r) * kTileSlots + slot);
#pragma unroll
        for (int j = 0; j < kChunks; ++j) {
            if (32 * j + lane >= dim) break;
            const int at = slot * (dim + kTilePad) + 32 * j + lane, step = dim + kTilePad;
            const float a = v[at], b = v[at + step], c = v[at + 2 * step], d = v[at + 3 * step];
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                o[r][j] = fmaf(w[r].x, a, o[r][j]);
                o[r][j] = fmaf(w[r].y, b, o[r][j]);
                o[r][j] = fmaf(w[r].z, c, o[r][j]);
                o[r][j] = fmaf(w[r].w, d, o[r][j]);
            }
        }
    }
}

}  // namespace thimble::cuda
