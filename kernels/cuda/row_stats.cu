// SPDX-License-Identifier: Apache-2.0
// Largest value, its lowest place and sum(exp(x - max)) of each row, the row read once: each thread
// keeps a state {max, its place, sum} ("Online normalizer calculation for softmax", 2018), and
// states are merged in a fixed order. Floor: 4 bytes moved per element. One block of 512 threads
// per row; shared memory: 12 bytes per warp. Occupancy is bound by the number of rows.
#include <limits>

#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr float kLowest = -std::numeric_limits<float>::infinity();

struct State {
    float max, sum;
    std::int32_t at;
};

__device__ __forceinline__ State merged(const State& a, const State& b) {
    const float top = fmaxf(a.max, b.max);
    const float sum = a.sum * (a.max == top ? 1.0f : expf(a.max - top)) +
                      b.sum * (b.max == top ? 1.0f : expf(b.max - top));
    if (a.max == b.max) return {top, sum, a.at < b.at ? a.at : b.at};
    return {top, sum, a.max > b.max ? a.at : b.at};
}

__device__ __forceinline__ State warp_merged(State s) {
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        const State other = {__shfl_xor_sync(kAllLanes, s.max, lanes),
                             __shfl_xor_sync(kAllLanes, s.sum, lanes),
                             __shfl_xor_sync(kAllLanes, s.at, lanes)};
        s = merged(s, other);
    }
    return s;
}

__global__ void __launch_bounds__(kThreads) row_stats_kernel(RowStatistics p) {
    THIMBLE_SHARED(float, max_of, kWarps);
    THIMBLE_SHARED(float, sum_of, kWarps);
    THIMBLE_SHARED(std::int32_t, at_of, kWarps);
    const float* x = p.x + blockIdx.x * p.stride;
    const auto cols = static_cast<std::int32_t>(p.cols);
    State mine = {kLowest, 0, static_cast<std::int32_t>(threadIdx.x)};
    for (std::int32_t i = threadIdx.x; i < cols; i += kThreads) {
        const float v = x[i];
        if (v > mine.max) {
            mine.sum *= expf(mine.max - v);  // at first 0 * 0
            mine.max = v, mine.at = i;
        }
        if (v != kLowest) mine.sum += expf(v - mine.max);  // NaN stays
    }
    mine = warp_merged(mine);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane == 0) max_of[warp] = mine.max, sum_of[warp] = mine.sum, at_of[warp] = mine.at;
    __syncthreads();
    if (warp != 0) return;
    mine = lane < kWarps ? State{max_of[lane], sum_of[lane], at_of[lane]} : State{kLowest, 0, cols};
    mine = warp_merged(mine);
    if (lane != 0) return;
    p.max[blockIdx.x] = mine.max;
    p.argmax[blockIdx.x] = mine.at;
    // Of a row with nothing above -infinity there is no such sum.
    p.sum[blockIdx.x] = mine.max == kLowest ? std::numeric_limits<float>::quiet_NaN() : mine.sum;
}

}  // namespace

bool supports_row_stats(const RowStatistics& p) noexcept {
    return p.cols > 0 && p.cols <= std::numeric_limits<std::int32_t>::max() - kThreads;
}

void row_stats(const RowStatistics& p, Stream& stream) {
    launch("row_stats", row_stats_kernel, {static_cast<unsigned>(p.rows), kThreads}, stream, p);
}

}  // namespace thimble::cuda
