// SPDX-License-Identifier: Apache-2.0
// Sums over rows: a block of 256 threads owns 32 columns, a warp of it every eighth row; the eight
// sums of a column are added in order, so it has one order whatever the machine. Floor: 4 bytes
// moved per element of each operand. Shared memory: 1 KiB. Occupancy is bound by the columns: it
// is no hot loop.
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

constexpr int kColumns = 32, kWarps = 8, kThreads = kColumns * kWarps;

__global__ void __launch_bounds__(kThreads) column_sums_kernel(ColumnSums p) {
    THIMBLE_SHARED(float, parts, kThreads);
    const int lane = threadIdx.x % kColumns, warp = threadIdx.x / kColumns;
    const std::int64_t column = std::int64_t{blockIdx.x} * kColumns + lane;
    float sum = 0;
    for (std::int64_t t = warp; t < p.rows && column < p.cols; t += kWarps) {
        float factor = p.x != nullptr ? p.x[t * p.x_stride + column] : 1.0f;
        if (p.r != nullptr) factor *= p.r[t];
        sum = fmaf(p.y[t * p.y_stride + column], factor, sum);
    }
    parts[threadIdx.x] = sum;
    __syncthreads();
    if (warp != 0 || column >= p.cols) return;
    float total = 0;
    for (int w = 0; w < kWarps; ++w) total += parts[w * kColumns + lane];
    p.sums[column] += total;
}

}  // namespace

bool supports_column_sums(const ColumnSums& p) noexcept { return p.cols > 0; }

void column_sums(const ColumnSums& p, Stream& stream) {
    if (p.rows == 0) return;
    launch("column_sums", column_sums_kernel, {blocks_for(p.cols, kColumns), kThreads}, stream, p);
}

}  // namespace thimble::cuda
