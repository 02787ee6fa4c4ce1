// SPDX-License-Identifier: Apache-2.0
// Activations to bit planes: a block per row. Its threads first find the scale, then each warp
// takes words of 32 columns, a lane per column, and gets a plane's word as a vote. Floor: a row's
// floats are read once from memory and once more from the caches, and an eighth of that or less is
// written. Shared memory: a float per warp. Occupancy is bound by threads; few rows leave most of a
// device idle.
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

constexpr int kThreads = kPlaneSums, kWarps = kThreads / 32;
constexpr int kMostBits = 8;

// The CPU's kernel step by step: nothing here may be fused into another operation.
__device__ __forceinline__ unsigned code_of(float x, int bits, float most, float inverse) {
    if (bits == 1) return x >= 0 ? 1u : 0u;
    const float u = __fadd_rn(__fmul_rn(x, inverse), 0.5f * most);
    return static_cast<unsigned>(__float2int_rn(u > 0 ? (u < most ? u : most) : 0.0f));
}

__global__ void __launch_bounds__(kThreads) encode_planes_kernel(EncodePlanes p) {
    THIMBLE_SHARED(float, scratch, kWarps);
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
    const std::int64_t row = blockIdx.x;
    const float* x = p.x + row * p.stride;
    float peak = 0, sum = 0, bad = 0;
    for (std::int64_t k = thread; k < p.cols; k += kThreads) {
        peak = fmaxf(fabsf(x[k]), peak);
        sum += fabsf(x[k]);
        bad += __fmul_rn(x[k], 0.0f);
    }
    const auto most = static_cast<float>((1 << p.bits) - 1);
    const float scale = p.bits == 1 ? block_sum(sum, scratch) / static_cast<float>(p.cols)
                                    : block_max(peak, scratch) / most;
    bad = block_sum(bad, scratch);
    if (thread == 0) p.scales[row] = scale + bad;
    const float inverse = scale > 1e-30f ? 0.5f / scale : 0.0f;
    const std::int64_t words = plane_words(p.cols);
    std::uint32_t* planes = p.planes + row * p.bits * words;
    for (std::int64_t w = thread / 32; w < words; w += kWarps) {
        const std::int64_t k = 32 * w + lane;
        const unsigned code = k < p.cols ? code_of(x[k], p.bits, most, inverse) : 0u;
        unsigned mine = 0;  // of plane `lane`
#pragma unroll
        for (int j = 0; j < kMostBits; ++j) {
            if (j >= p.bits) break;
            const unsigned word = __ballot_sync(kAllLanes, static_cast<int>(code >> j & 1u));
            if (lane == j) mine = word;
        }
        if (lane < p.bits) planes[lane * words + w] = mine;
    }
}

}  // namespace

bool supports_encode_planes(const EncodePlanes& p) noexcept {
    return p.cols > 0 && p.cols % 32 == 0 && p.bits >= 1 && p.bits <= kMostBits;
}

void encode_planes(const EncodePlanes& p, Stream& stream) {
    launch("encode_planes", encode_planes_kernel, {static_cast<unsigned>(p.rows), kThreads}, stream,
           p);
}

}  // namespace thimble::cuda
