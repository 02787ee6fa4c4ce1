// SPDX-License-Identifier: Apache-2.0
// Products of every stored layout but f32 with many tokens, on tensor cores: a block makes 128 rows
// by 64 tokens; for each 32 columns, half of its threads decode the weights of a row each into
// shared memory and the others copy the inputs, then each of eight warps multiplies 32 rows by 32
// tokens. Weights and inputs are rounded to bf16 (f16 weights: inputs to f16, whose range they must
// keep), sums are float: a relative error of at most 2^-8 (2^-11) for each factor of each product.
// An output's bits do not depend on the number of tokens. Floor: one multiply-add per weight and
// token; weights are read once per 64 tokens. Shared memory: 15 KiB per block of 256 threads, whose
// rows are 20 words apart so that neither the writes nor the reads of fragments meet in a bank;
// occupancy is bound by registers.
#include "kernels/cuda/device/matvec.cuh"
#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/device/unpack.cuh"

namespace thimble::cuda {
namespace {

constexpr int kThreads = 256, kTileRows = 128, kTileTokens = 64, kWarpTile = 32;
constexpr int kWords = kPart / 2, kPitch = kWords + 4;  // of a row in shared memory

template <LayoutId id>
inline constexpr LayoutId kTile = id == LayoutId::k_f16 ? id : LayoutId::k_bf16;

// Weights of row `thread`; rows past the last are 0.
template <LayoutId id, class Shared>
__device__ __forceinline__ void stage_weights(const Matmul& p, std::int64_t row, std::int64_t k,
                                              int thread, Shared&& weights) {
    float w[kPart] = {};
    if (row + thread < p.weight.rows)
        decode_part<id>(packed_row(p.weight, row + thread), k, p.weight.cols, w);
    const auto pair = [&](int i) { return narrowed_pair<kTile<id>>(w[i], w[i + 1]); };
#pragma unroll
    for (int i = 0; i < kPart; i += 8)
        shared_store(weights, thread * kPitch + i / 2,
                     make_uint4(pair(i), pair(i + 2), pair(i + 4), pair(i + 6)));
}

// Inputs by 128 threads; those past the last column or token are 0.
template <LayoutId id, class Shared>
__device__ __forceinline__ void stage_inputs(const Matmul& p, std::int64_t token, std::int64_t k,
                                             int thread, Shared&& inputs) {
    const int word = thread % kWords;
    const std::int64_t left = p.weight.cols - k - 2 * word;
#pragma unroll 4
    for (int t = thread / kWords; t < kTileTokens; t += kTileRows / kWords) {
        const float* x = p.x + (token + t) * p.x_stride + k + 2 * word;
        const bool there = token + t < p.tokens;
        inputs[t * kPitch + word] = narrowed_pair<kTile<id>>(there && left > 0 ? x[0] : 0.0f,
                                                             there && left > 1 ? x[1] : 0.0f);
    }
}

// 32 rows and 32 tokens from these on; lane 4 g + q.
template <LayoutId id, class Weights, class Inputs>
__device__ __forceinline__ void multiply(const Weights& weights, const Inputs& inputs, int row,
                                         int token, int g, int q, float (&sums)[2][4][4]) {
#pragma unroll
    for (int k = 0; k < kWords; k += 8) {
        unsigned a[2][4], b[4][2];
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
            for (int i = 0; i < 4; ++i)
                a[m][i] = weights[(row + 16 * m + 8 * (i % 2) + g) * kPitch + k + i / 2 * 4 + q];
        }
#pragma unroll
        for (int n = 0; n < 4; ++n) {
#pragma unroll
            for (int i = 0; i < 2; ++i)
                b[n][i] = inputs[(token + 8 * n + g) * kPitch + k + 4 * i + q];
        }
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
            for (int n = 0; n < 4; ++n) multiply_add<kTile<id>>(sums[m][n], a[m], b[n]);
        }
    }
}

template <LayoutId id>
__global__ void __launch_bounds__(kThreads, 2) matmul_mma_kernel(Matmul p) {
    THIMBLE_SHARED(unsigned, weights, kTileRows* kPitch);
    THIMBLE_SHARED(unsigned, inputs, kTileTokens* kPitch);
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
    const std::int64_t row = std::int64_t{blockIdx.x} * kTileRows;
    const std::int64_t token = std::int64_t{blockIdx.y} * kTileTokens;
    const int my_row = warp % 4 * kWarpTile, my_token = warp / 4 * kWarpTile;
    const bool works = token + my_token < p.tokens && row + my_row < p.weight.rows;
    float sums[2][4][4] = {};
    for (std::int64_t k = 0; k < p.weight.cols; k += kPart) {
        if (thread < kTileRows) {
            stage_weights<id>(p, row, k, thread, weights);
        } else {
            stage_inputs<id>(p, token, k, thread - kTileRows, inputs);
        }
        __syncthreads();
        if (works) multiply<id>(weights, inputs, my_row, my_token, lane / 4, lane % 4, sums);
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < 4; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const std::int64_t r = row + my_row + 16 * m + i / 2 * 8 + lane / 4;
                const std::int64_t t = token + my_token + 8 * n + lane % 4 * 2 + i % 2;
                if (r < p.weight.rows && t < p.tokens) write_output(p, t, r, sums[m][n][i]);
            }
        }
    }
}

// Than what the products' operands hold.
constexpr bool is_wider(LayoutId id) noexcept {
    return id == LayoutId::k_f32 || id == LayoutId::k_f64;
}

}  // namespace

bool supports_matmul_mma(const Matmul& p) noexcept {
    return is_stored(p.weight.layout) && !is_wider(p.weight.layout) && p.weight.cols > 0 &&
           p.tokens <= std::int64_t{65535} * kTileTokens;
}

void matmul_mma(const Matmul& p, Stream& stream) {
    const dim3 grid(blocks_for(p.weight.rows, kTileRows), blocks_for(p.tokens, kTileTokens));
    with_stored(p.weight.layout, [&](auto id) {
        if constexpr (!is_wider(id))
            launch("matmul_mma", matmul_mma_kernel<id>, {grid, kThreads}, stream, p);
    });
}

}  // namespace thimble::cuda
