// SPDX-License-Identifier: Apache-2.0
// Matrix-vector products of f16 and bf16 weights: a warp per row, a lane takes eight weights with
// one 128-bit load and eight inputs of each token with two.
// Floor: 2 bytes moved per weight; the inputs come from the caches. No shared memory. Blocks of 256
// threads; occupancy is bound by registers at eight tokens and by nothing at one.
#include "kernels/cuda/device/halves.cuh"
#include "kernels/cuda/device/matvec.cuh"

namespace thimble::cuda {
namespace {

template <LayoutId id, int kTokens>
__global__ void __launch_bounds__(kMatvecThreads) matvec_half_kernel(Matmul p) {
    const std::int64_t row = std::int64_t{blockIdx.x} * kMatvecRows + threadIdx.x / 32;
    if (row >= p.weight.rows) return;
    const std::byte* weights =
        p.weight.planes[0] + static_cast<std::size_t>(row) * p.weight.row_bytes[0];
    float sums[kTokens] = {};
    const std::int64_t cols = p.weight.cols;
#pragma unroll 2
    for (std::int64_t k = threadIdx.x % 32 * 8; k < cols; k += 256) {
        const uint4 bits = load_vector<uint4>(weights + 2 * k);
        const float2 w[4] = {floats_of<id>(bits.x), floats_of<id>(bits.y), floats_of<id>(bits.z),
                             floats_of<id>(bits.w)};
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
            if (t >= p.tokens) break;
            const float* x = p.x + t * p.x_stride + k;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float4 part = load_vector<float4>(x + 4 * i);
                sums[t] += part.x * w[2 * i].x;
                sums[t] += part.y * w[2 * i].y;
                sums[t] += part.z * w[2 * i + 1].x;
                sums[t] += part.w * w[2 * i + 1].y;
            }
        }
    }
    write_lane_sums(p, row, sums);
}

}  // namespace

bool supports_matvec_half(const Matmul& p) noexcept {
    const Matrix& w = p.weight;
    return (w.layout == LayoutId::k_f16 || w.layout == LayoutId::k_bf16) &&
           p.tokens <= kMatvecTokens && w.cols > 0 && w.cols % 8 == 0 &&
           is_aligned(w.planes[0], 16) && w.row_bytes[0] % 16 == 0 && is_aligned(p.x, 16) &&
           (p.x_stride % 4 == 0 || p.tokens <= 1);
}

void matvec_half(const Matmul& p, Stream& stream) {
    with_tokens(p.tokens, [&](auto tokens) {
        const auto kernel = p.weight.layout == LayoutId::k_f16
                                ? matvec_half_kernel<LayoutId::k_f16, tokens>
                                : matvec_half_kernel<LayoutId::k_bf16, tokens>;
        launch("matvec_half", kernel, matvec_shape(p), stream, p);
    });
}

}  // namespace thimble::cuda
