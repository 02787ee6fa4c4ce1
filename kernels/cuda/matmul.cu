// SPDX-License-Identifier: Apache-2.0
// Products of any stored layout with any number of tokens, in float: a block makes 128 rows by 64
// tokens; for each 32 columns, half of its threads decode the weights of a row each into shared
// memory and the others copy the inputs, then every thread multiplies 8 rows by 4 tokens. An output
// is the sum over its columns in order, so its bits do not depend on the number of tokens.
// Floor: one float multiply-add per weight and token; weights are read once per 64 tokens. Shared
// memory: 25 KiB per block of 256 threads; occupancy is bound by registers (two blocks).
#include "kernels/cuda/device/matvec.cuh"
#include "kernels/cuda/device/unpack.cuh"

namespace thimble::cuda {
namespace {

constexpr int kThreads = 256, kTileRows = 128, kTileTokens = 64;
constexpr int kRows = 4, kTokens = 4;  // of a thread: kRows from 4 i and kRows from 64 + 4 i on
constexpr int kRowPitch = kTileRows + 4, kTokenPitch = kTileTokens + 4;

// Weights of row `thread`, transposed; rows past the last are 0.
template <LayoutId id, class Shared>
__device__ __forceinline__ void stage_weights(const Matmul& p, std::int64_t row, std::int64_t k,
                                              int thread, Shared&& weights) {
    float w[kPart] = {};
    if (row + thread < p.weight.rows)
        decode_part<id>(packed_row(p.weight, row + thread), k, p.weight.cols, w);
#pragma unroll
    for (int i = 0; i < kPart; ++i) weights[i * kRowPitch + thread] = w[i];
}

// Inputs, transposed, by 128 threads; those past the last column or token are 0.
template <class Shared>
__device__ __forceinline__ void stage_inputs(const Matmul& p, std::int64_t token, std::int64_t k,
                                             int thread, Shared&& inputs) {
    const int column = thread % kPart;
#pragma unroll 4
    for (int t = thread / kPart; t < kTileTokens; t += kTileRows / kPart) {
        const bool there = token + t < p.tokens && k + column < p.weight.cols;
        inputs[column * kTokenPitch + t] =
            there ? p.x[(token + t) * p.x_stride + k + column] : 0.0f;
    }
}

template <LayoutId id>
__global__ void __launch_bounds__(kThreads, 2) matmul_kernel(Matmul p) {
    THIMBLE_SHARED(float, weights, kPart* kRowPitch);
    THIMBLE_SHARED(float, inputs, kPart* kTokenPitch);
    const int thread = static_cast<int>(threadIdx.x);
    const std::int64_t row = std::int64_t{blockIdx.x} * kTileRows;
    const std::int64_t token = std::int64_t{blockIdx.y} * kTileTokens;
    const int my_row = thread % 16 * kRows, my_token = thread / 16 * kTokens;
    const bool works = token + my_token < p.tokens && row + my_row < p.weight.rows;
    float sums[2 * kRows][kTokens] = {};
    for (std::int64_t k = 0; k < p.weight.cols; k += kPart) {
        if (thread < kTileRows) {
            stage_weights<id>(p, row, k, thread, weights);
        } else {
            stage_inputs(p, token, k, thread - kTileRows, inputs);
        }
        __syncthreads();
#pragma unroll 4
        for (int i = 0; i < kPart && works; ++i) {
            const float4 a = shared_load<float4>(weights, i * kRowPitch + my_row);
            const float4 b = shared_load<float4>(weights, i * kRowPitch + 64 + my_row);
            const float4 x = shared_load<float4>(inputs, i * kTokenPitch + my_token);
            const float w[2 * kRows] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
            const float in[kTokens] = {x.x, x.y, x.z, x.w};
#pragma unroll
            for (int j = 0; j < 2 * kRows; ++j) {
#pragma unroll
                for (int t = 0; t < kTokens; ++t) sums[j][t] += w[j] * in[t];
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < 2 * kRows; ++j) {
        const std::int64_t r = row + (j < kRows ? j : 64 + j - kRows) + my_row;
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
            if (r < p.weight.rows && token + my_token + t < p.tokens)
                write_output(p, token + my_token + t, r, sums[j][t]);
        }
    }
}

}  // namespace

bool supports_matmul(const Matmul& p) noexcept {
    return is_stored(p.weight.layout) && p.weight.cols > 0 &&
           p.tokens <= std::int64_t{65535} * kTileTokens;
}

void matmul(const Matmul& p, Stream& stream) {
    const dim3 grid(blocks_for(p.weight.rows, kTileRows), blocks_for(p.tokens, kTileTokens));
    with_stored(p.weight.layout, [&](auto id) {
        launch("matmul", matmul_kernel<id>, {grid, kThreads}, stream, p);
    });
}

}  // namespace thimble::cuda
