// SPDX-License-Identifier: Apache-2.0
// Products of bit planes with many tokens' bit planes, on tensor cores ("Accelerating
// Arbitrary-Precision LLMs with Bipolar-INT", AP-LLM, 2024, equation 5). A block makes 128 rows by
// 64 tokens; 128 columns at a time, its threads put the planes of both into shared memory, then
// each of eight warps multiplies 32 rows by 32 tokens. Pairs of planes i, j with the same i + j
// count alike, so that the 256 bits which the tensor cores take hold two such pairs of 128 columns,
// four of 64 or eight of 32: as many columns as have one scale. Sums are whole numbers until then.
// An output's bits do not depend on the number of tokens. Floor: bits * x_bits products of bits for
// each weight and token; weights are read once per 64 tokens. Shared memory: 30 KiB per block of
// 256 threads; a row's planes are 4 words each, an odd number of times, so that reads of fragments
// do not meet in a bank. Occupancy is bound by registers.
#include "kernels/cuda/device/bit_mma.cuh"
#include "kernels/cuda/device/bit_planes.cuh"

namespace thimble::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kTileRows = 128, kTileTokens = 64, kWarpTile = 32;
constexpr int kWords = 4;  // of a plane at a time
constexpr int kMostPitch = kWords * (kMostPlanes + 1);

__device__ __forceinline__ int pitch_of(int bits) { return kWords * (bits | 1); }

// Words [tile, tile + 4) of 128 rows, plane by plane, and the scale of each; 0 past the matrix.
template <class Words, class Scales>
__device__ __forceinline__ void stage_weights(const MatmulPlanes& p, std::int64_t row,
                                              std::int64_t tile, Words&& words, Scales&& scales) {
    const int bits = p.weight.params.bits, pitch = pitch_of(bits);
    const std::int64_t left = p.weight.cols / 32 - tile;
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int at_once = kMostPlanes / bits;  // rows of a warp
    const int word = lane % (kWords * bits) / bits, plane = lane % bits;
    if (lane < at_once * kWords * bits) {
#pragma unroll 4
        for (int r = warp * at_once + lane / (kWords * bits); r < kTileRows;
             r += kWarps * at_once) {
            unsigned value = 0;
            if (row + r < p.weight.rows && word < left)
                value = __ldg(plane_row(p.weight, row + r) + (tile + word) * bits + plane);
            words[r * pitch + kWords * plane + word] = value;
        }
    }
    for (int i = static_cast<int>(threadIdx.x); i < kTileRows * kWords; i += kThreads) {
        const int r = i / kWords;
        const bool there = row + r < p.weight.rows && i % kWords < left;
        scales[i] = there ? plane_scale(p.weight, row + r, tile + i % kWords) : 0.0f;
    }
}

// The same of 64 tokens: planes end in zeros.
template <class Words>
__device__ __forceinline__ void stage_inputs(const MatmulPlanes& p, std::int64_t token,
                                             std::int64_t tile, Words&& words) {
    const std::int64_t stride = plane_words(p.weight.cols);
    const int pitch = pitch_of(p.x_bits);
    for (int i = static_cast<int>(threadIdx.x); i < kTileTokens * p.x_bits; i += kThreads) {
        const int t = i / p.x_bits, plane = i % p.x_bits;
        uint4 value = make_uint4(0, 0, 0, 0);
        if (token + t < p.tokens)
            value = load_vector<uint4>(p.x + ((token + t) * p.x_bits + plane) * stride + tile);
        shared_store(words, t * pitch + kWords * plane, value);
    }
}

// Of a warp's 32 rows and 32 tokens.
struct Place {
    int row, token;  // in the block's tile
    int g, q;        // lane 4 g + q
};

// Bits of `part` words from `word` on that differ, weighted by their places.
template <class Weights, class Inputs>
__device__ __forceinline__ void differing(const MatmulPlanes& p, const Weights& weights,
                                          const Inputs& inputs, const Place& at, int word, int part,
                                          int (&sums)[2][4][4]) {
    const int bits = p.weight.params.bits, pitch = pitch_of(bits), x_pitch = pitch_of(p.x_bits);
    const int low = at.q / part, high = (at.q + kWords) / part, from = word + at.q % part;
    for (int place = bits + p.x_bits - 2; place >= 0; --place) {
#pragma unroll
        for (int i = 0; i < 32; ++i) sums[i / 16][i / 4 % 4][i % 4] *= 2;
        const int first = place < p.x_bits ? 0 : place - p.x_bits + 1;
        const int end = place < bits ? place + 1 : bits;
        for (int plane = first; plane < end; plane += 2 * kWords / part) {
            // Pairs of planes that are not there are zero on both sides.
            const bool has[2] = {plane + low < end, plane + high < end};
            const int of_plane[2] = {kWords * (plane + low) + from, kWords * (plane + high) + from};
            unsigned a[2][4], b[4][2];
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const int r = at.row + 16 * (i / 4) + 8 * (i % 2) + at.g, half = i / 2 % 2;
                a[i / 4][i % 4] = has[half] ? weights[r * pitch + of_plane[half]] : 0u;
            }
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const int t = at.token + 8 * (i / 2) + at.g, half = i % 2;
                const int x_plane = kWords * place - of_plane[half] + 2 * from;
                b[i / 2][half] = has[half] ? inputs[t * x_pitch + x_plane] : 0u;
            }
#pragma unroll
            for (int i = 0; i < 8; ++i) count_differing(sums[i / 4][i % 4], a[i / 4], b[i % 4]);
        }
    }
}

__global__ void __launch_bounds__(kThreads, 2) matmul_planes_kernel(MatmulPlanes p, int part) {
    THIMBLE_SHARED(unsigned, weights, kTileRows* kMostPitch);
    THIMBLE_SHARED(unsigned, inputs, kTileTokens* kMostPitch);
    THIMBLE_SHARED(float, scales, kTileRows* kWords);
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const std::int64_t row = std::int64_t{blockIdx.x} * kTileRows;
    const std::int64_t token = std::int64_t{blockIdx.y} * kTileTokens;
    const Place at{warp % 4 * kWarpTile, warp / 4 * kWarpTile, lane / 4, lane % 4};
    const bool works = token + at.token < p.tokens && row + at.row < p.weight.rows;
    const int most = most_of(p, 32 * part);
    const std::int64_t tiles = p.weight.cols / 32;
    float sums[2][4][4] = {};
    for (std::int64_t tile = 0; tile < tiles; tile += kWords) {
        stage_weights(p, row, tile, weights, scales);
        stage_inputs(p, token, tile, inputs);
        __syncthreads();
        for (int word = 0; works && word < kWords && tile + word < tiles; word += part) {
            int counts[2][4][4] = {};
            differing(p, weights, inputs, at, word, part, counts);
#pragma unroll
            for (int i = 0; i < 32; ++i) {
                const int m = i / 16, n = i / 4 % 4, e = i % 4;
                const float scale = scales[(at.row + 16 * m + 8 * (e / 2) + at.g) * kWords + word];
                sums[m][n][e] =
                    fmaf(static_cast<float>(most - 2 * counts[m][n][e]), scale, sums[m][n][e]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 32; ++i) {
        const int m = i / 16, n = i / 4 % 4, e = i % 4;
        const std::int64_t r = row + at.row + 16 * m + 8 * (e / 2) + at.g;
        const std::int64_t t = token + at.token + 8 * n + 2 * at.q + e % 2;
        if (r < p.weight.rows && t < p.tokens) write_output(p, t, r, sums[m][n][e] * p.x_scales[t]);
    }
}

}  // namespace

bool supports_matmul_planes(const MatmulPlanes& p) noexcept {
    return are_planes(p) && p.tokens <= std::int64_t{65535} * kTileTokens;
}

void matmul_planes(const MatmulPlanes& p, Stream& stream) {
    // The most words that have one scale wherever they begin.
    int part = kWords;
    while ((p.weight.params.group / 32 | p.weight.cols / 32) % part != 0) part /= 2;
    const dim3 grid(blocks_for(p.weight.rows, kTileRows), blocks_for(p.tokens, kTileTokens));
    launch("matmul_planes", matmul_planes_kernel, {grid, kThreads}, stream, p, part);
}

}  // namespace thimble::cuda
