// SPDX-License-Identifier: Apache-2.0
// The largest of a row: every block sorts 2048 entries and keeps k of them, again and again until
// one block is left. An entry is a number that orders as its logit does, over the complement of its
// place, so that no two are equal and the result depends on no order of blocks. Floor: 4 bytes read
// per element, and 8 k written and read for every 2048. Blocks of 256 threads; shared memory:
// 16 KiB, so eight blocks of a multiprocessor run at once (bound by threads).
#include <limits>

#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {
namespace {

constexpr int kThreads = 256, kSlice = static_cast<int>(kTopSlice);

struct Stage {
    const float* x;
    const std::uint64_t* in;  // null: the row itself is sorted
    std::int64_t count;
    int k;
    std::uint64_t* out;  // null: the last
    float* values;
    std::int32_t* places;
};

// Never 0, which stands for no entry at all.
__device__ __forceinline__ std::uint64_t entry_of(float x, std::int64_t place) {
    const unsigned bits = __float_as_uint(x == 0 ? 0.0f : x);
    unsigned order = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
    if (!(x < std::numeric_limits<float>::infinity())) order = 0xffffffffu;  // NaN too
    return std::uint64_t{order} << 32 | (0xffffffffu - static_cast<unsigned>(place));
}

// Sorts n entries, a power of two, largest first (Batcher, "Sorting networks and their
// applications", 1968). All threads have written theirs before; all see the result.
template <class Entries>
__device__ __forceinline__ void sort(Entries&& entries, int n) {
    for (int size = 2; size <= n; size *= 2) {
        for (int gap = size / 2; gap > 0; gap /= 2) {
            __syncthreads();
            for (int pair = threadIdx.x; pair < n / 2; pair += kThreads) {
                const int i = 2 * pair - (pair & (gap - 1)), j = i + gap;
                const std::uint64_t a = entries[i], b = entries[j];
                if ((a < b) == ((i & size) == 0)) entries[i] = b, entries[j] = a;
            }
        }
    }
    __syncthreads();
}

__global__ void __launch_bounds__(kThreads) top_k_kernel(Stage p) {
    THIMBLE_SHARED(std::uint64_t, entries, kSlice);
    const std::int64_t first = std::int64_t{blockIdx.x} * kSlice;
    const int count = static_cast<int>(p.count - first < kSlice ? p.count - first : kSlice);
    int n = 1;
    while (n < count || n < p.k) n *= 2;
    for (int i = threadIdx.x; i < n; i += kThreads) {
        std::uint64_t entry = 0;
        if (i < count)
            entry = p.in != nullptr ? p.in[first + i] : entry_of(p.x[first + i], first + i);
        entries[i] = entry;
    }
    sort(entries, n);
    const int i = threadIdx.x;
    if (i >= p.k) return;
    const std::uint64_t entry = entries[i];
    if (p.out != nullptr) {
        p.out[std::int64_t{blockIdx.x} * p.k + i] = entry;
        return;
    }
    const unsigned place = 0xffffffffu - static_cast<unsigned>(entry);
    p.values[i] = p.x[place];
    p.places[i] = static_cast<std::int32_t>(place);
}

}  // namespace

static_assert(kMostTop <= kThreads && 2 * kMostTop <= kTopSlice);

bool supports_top_k(const TopK& p) noexcept {
    return p.k > 0 && p.k <= p.cols && p.k <= kMostTop &&
           p.cols <= std::numeric_limits<std::int32_t>::max();
}

void top_k(const TopK& p, Stream& stream) {
    Stage stage = {p.x, nullptr, p.cols, static_cast<int>(p.k), p.scratch, p.values, p.places};
    for (;;) {
        const unsigned blocks = blocks_for(stage.count, kTopSlice);
        if (blocks == 1) stage.out = nullptr;
        launch("top_k", top_k_kernel, {blocks, kThreads}, stream, stage);
        if (blocks == 1) return;
        stage.in = stage.out, stage.count = blocks * p.k;
        stage.out += stage.count;
    }
}

}  // namespace thimble::cuda
