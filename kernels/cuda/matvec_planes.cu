// SPDX-License-Identifier: Apache-2.0
// Matrix-vector products of bit planes with bit planes: words of 32 columns that differ in c bits
// have the product 32 - 2 c, and bits i and j count 2^(i + j) times ("Accelerating
// Arbitrary-Precision LLMs with Bipolar-INT", AP-LLM, 2024, equation 5). A warp per row; every lane
// takes 32 columns, neighbouring lanes neighbouring ones, and keeps their words for all tokens.
// Floor: the weights' bytes, or bits * x_bits population counts for each 32 weights and token,
// 16 in a clock and multiprocessor: with more than 8 pairs of planes the counts. No shared memory.
// Blocks of 256 threads; occupancy is bound by registers, or by threads on 8.6 and 8.9.
#include "kernels/cuda/device/bit_planes.cuh"

namespace thimble::cuda {
namespace {

// Bits of the words that differ, weighted by their places; x: of one token, `stride` apart.
__device__ __forceinline__ int differing(const unsigned (&words)[kMostPlanes], int bits,
                                         const std::uint32_t* x, int x_bits, std::int64_t stride) {
    int sum = 0;
    for (int j = x_bits - 1; j >= 0; --j) {
        const unsigned plane = __ldg(x + j * stride);
        int count = 0;
#pragma unroll
        for (int i = 0; i < kMostPlanes; ++i) {
            if (i >= bits) break;
            count += __popc(words[i] ^ plane) << i;
        }
        sum = 2 * sum + count;
    }
    return sum;
}

template <int kTokens>
__global__ void __launch_bounds__(kMatvecThreads) matvec_planes_kernel(MatmulPlanes p) {
    const std::int64_t row = std::int64_t{blockIdx.x} * kMatvecRows + threadIdx.x / 32;
    if (row >= p.weight.rows) return;
    const int bits = p.weight.params.bits, most = most_of(p, 32);
    const std::int64_t tiles = p.weight.cols / 32, stride = plane_words(p.weight.cols);
    const std::uint32_t* from = plane_row(p.weight, row);
    float sums[kTokens] = {};
    for (std::int64_t tile = threadIdx.x % 32; tile < tiles; tile += 32) {
        unsigned words[kMostPlanes];
#pragma unroll
        for (int i = 0; i < kMostPlanes; ++i)
            words[i] = i < bits ? __ldg(from + tile * bits + i) : 0;
        const float scale = plane_scale(p.weight, row, tile);
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
            if (t >= p.tokens) break;
            const int differ =
                differing(words, bits, p.x + t * p.x_bits * stride + tile, p.x_bits, stride);
            sums[t] = fmaf(static_cast<float>(most - 2 * differ), scale, sums[t]);
        }
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
        if (t >= p.tokens) return;
        const float sum = warp_sum(sums[t]);
        if (threadIdx.x % 32 == 0) write_output(p, t, row, sum * p.x_scales[t]);
    }
}

}  // namespace

bool supports_matvec_planes(const MatmulPlanes& p) noexcept {
    return are_planes(p) && p.tokens <= kMatvecTokens;
}

void matvec_planes(const MatmulPlanes& p, Stream& stream) {
    with_tokens(p.tokens, [&](auto tokens) {
        launch("matvec_planes", matvec_planes_kernel<tokens>, matvec_shape(p), stream, p);
    });
}

}  // namespace thimble::cuda
