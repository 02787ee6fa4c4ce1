// SPDX-License-Identifier: Apache-2.0
// Matrix-vector products of any stored layout with float input: a warp per row. Each lane decodes
// 32 columns of the next 1024 into shared memory, transposed by a gap of one, so that then
// neighbouring lanes take neighbouring columns of weights and inputs. Lane l sums columns l,
// l + 32, ... in order, then the lanes are added.
// Floor: the weights' bytes; every weight also goes through shared memory once, which bounds
// layouts of few bits. Shared memory: 33 KiB per block of 256 threads. Occupancy is bound by
// registers: at 4 and 8 tokens, which take up to 96, two blocks per multiprocessor. f32, f16, bf16
// and f64 are read in place and use no shared memory.
#include "kernels/cuda/device/matvec.cuh"
#include "kernels/cuda/device/unpack.cuh"

namespace thimble::cuda {
namespace {

constexpr int kPitch = kPart + 1;  // of a lane's columns in shared memory

// Floats that stand by themselves.
template <LayoutId id>
inline constexpr bool kPlain = id == LayoutId::k_f32 || id == LayoutId::k_f16 ||
                               id == LayoutId::k_bf16 || id == LayoutId::k_f64;

template <int kTokens>
__device__ __forceinline__ void add_products(const Matmul& p, std::int64_t k, float w,
                                             float (&sums)[kTokens]) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
        if (t < p.tokens) sums[t] += w * p.x[t * p.x_stride + k];
    }
}

template <LayoutId id, int kTokens>
__global__ void __launch_bounds__(kMatvecThreads, kTokens > 2 ? 2 : 1) matvec_kernel(Matmul p) {
    const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
    const std::int64_t r = std::int64_t{blockIdx.x} * kMatvecRows + warp;
    if (r >= p.weight.rows) return;
    const PackedRow row = packed_row(p.weight, r);
    const std::int64_t cols = p.weight.cols;
    float sums[kTokens] = {};
    if constexpr (kPlain<id>) {
        const auto* weights = static_cast<const typename Layout<id>::Block*>(row.planes[0]);
#pragma unroll 4
        for (std::int64_t k = lane; k < cols; k += 32) {
            float w;
            Layout<id>::unpack(weights[k], &w);
            add_products(p, k, w, sums);
        }
    } else {
        THIMBLE_SHARED(float, staged, kMatvecRows * 32 * kPitch);
        const int first = warp * 32 * kPitch;
        for (std::int64_t k = 0; k < cols; k += 32 * kPart) {
            const std::int64_t left = (cols - k) / kPart;
            const int parts = left < 32 ? static_cast<int>(left) : 32;
            if (lane < parts) {
                float w[kPart];
                decode_part<id>(row, k + lane * kPart, cols, w);
#pragma unroll
                for (int i = 0; i < kPart; ++i) staged[first + lane * kPitch + i] = w[i];
            }
            __syncwarp();
#pragma unroll 4
            for (int i = 0; i < parts; ++i)
                add_products(p, k + i * kPart + lane, staged[first + i * kPitch + lane], sums);
            __syncwarp();
        }
    }
    write_lane_sums(p, r, sums);
}

}  // namespace

bool supports_matvec(const Matmul& p) noexcept {
    return is_stored(p.weight.layout) && p.weight.cols > 0 && p.tokens <= kMatvecTokens;
}

void matvec(const Matmul& p, Stream& stream) {
    with_stored(p.weight.layout, [&](auto id) {
        with_tokens(p.tokens, [&](auto tokens) {
            launch("matvec", matvec_kernel<id, tokens>, matvec_shape(p), stream, p);
        });
    });
}

}  // namespace thimble::cuda
