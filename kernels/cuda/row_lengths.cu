// SPDX-License-Identifier: Apache-2.0
// Lengths of the rows of a matrix of any stored layout with a low-rank term added: a warp to a row,
// a lane to every 32nd part of 32 columns, which it decodes into registers. Squares are added in
// float within a part and in double beyond it. Floor: the weights' bytes; the term's A is read from
// the caches once per row. No shared memory; 256 threads, bound by the 32 floats that each holds in
// registers.
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/unpack.cuh"

namespace thimble::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;

__device__ __forceinline__ void add_term(const RowLengths& p, std::int64_t row, std::int64_t first,
                                         float (&values)[kPart]) {
    const int count = part_columns(first, p.matrix.cols);
    for (std::int64_t k = 0; k < p.rank; ++k) {
        const float factor = p.scale * p.b[row * p.rank + k];
        const float* a = p.a + k * p.matrix.cols + first;
#pragma unroll
        for (int i = 0; i < kPart; ++i) {
            if (i < count) values[i] = fmaf(factor, a[i], values[i]);
        }
    }
}

template <LayoutId id>
__global__ void __launch_bounds__(kThreads) row_lengths_kernel(RowLengths p) {
    const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (row >= p.matrix.rows) return;
    double sum = 0;
    for (std::int64_t first = lane * kPart; first < p.matrix.cols; first += 32 * kPart) {
        float values[kPart], squares = 0;
        decode_part<id>(packed_row(p.matrix, row), first, p.matrix.cols, values);
        add_term(p, row, first, values);
#pragma unroll
        for (int i = 0; i < kPart; ++i) squares = fmaf(values[i], values[i], squares);
        sum += squares;
    }
    for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
    if (lane == 0) p.lengths[row] = sqrt(sum);
}

}  // namespace

bool supports_row_lengths(const RowLengths& p) noexcept {
    return is_stored(p.matrix.layout) && p.matrix.cols > 0 && p.rank >= 0;
}

void row_lengths(const RowLengths& p, Stream& stream) {
    with_stored(p.matrix.layout, [&](auto id) {
        launch("row_lengths", row_lengths_kernel<decltype(id)::value>,
               {blocks_for(p.matrix.rows, kWarps), kThreads}, stream, p);
    });
}

}  // namespace thimble::cuda
