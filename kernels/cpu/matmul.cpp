// SPDX-License-Identifier: Apache-2.0
// Matmul of any stored layout with f32 activations: a piece of a row is decoded to floats and
// multiplied with every token while it is in the cache.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"
#include "kernels/layout/all.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

constexpr std::int64_t kPiece = 1024;  // columns; a multiple of every layout's block

THIMBLE_INLINE float dot(const float* a, const float* b, std::int64_t n) {
    vf sums[4] = {};
    std::int64_t i = 0;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
        for (int j = 0; j < 4; ++j)
            sums[j] = fma(load(a + i + j * kLanes), load(b + i + j * kLanes), sums[j]);
    }
    for (; i + kLanes <= n; i += kLanes) sums[0] = fma(load(a + i), load(b + i), sums[0]);
    float sum = sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < n; ++i) sum = fma(a[i], b[i], sum);
    return sum;
}

}  // namespace

void matmul_rows(const MatmulRows& p) {
    float piece[kPiece];
    for (std::int64_t r = 0; r < p.rows; ++r) {
        PackedRow row{{}, p.params};
        for (int i = 0; i < kMaxPlanes; ++i)
            row.planes[i] = p.planes[i] + static_cast<std::size_t>(r) * p.row_bytes[i];
        if (!p.accumulate) {
            for (std::int64_t t = 0; t < p.tokens; ++t) p.out[t * p.out_stride + r] = 0;
        }
        for (std::int64_t k = 0; k < p.cols; k += kPiece) {
            const std::int64_t n = p.cols - k < kPiece ? p.cols - k : kPiece;
            decode_columns(p.layout, row, k, n, piece);
            for (std::int64_t t = 0; t < p.tokens; ++t)
                p.out[t * p.out_stride + r] += dot(p.x + t * p.x_stride + k, piece, n);
        }
        if (p.bias == nullptr) continue;
        for (std::int64_t t = 0; t < p.tokens; ++t) p.out[t * p.out_stride + r] += p.bias[r];
    }
}

}  // namespace thimble::cpu::THIMBLE_ISA
