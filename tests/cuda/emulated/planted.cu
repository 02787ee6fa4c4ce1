// SPDX-License-Identifier: Apache-2.0
#include "planted.h"

#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/memory.h"

namespace thimble::cuda_test {
namespace {

using emu::FaultKind;

constexpr int kN = kPlantedFloats;
constexpr unsigned kAll = 0xffffffffu;

// --- global memory ---

__global__ void read_past_the_end(float* x) {
    if (threadIdx.x == 33) x[0] = x[kN + 1000];
}
__global__ void write_past_the_end(float* x) {
    if (threadIdx.x == 33) x[kN + 1000] = 1;
}
__global__ void read_before_the_beginning(float* x) {
    if (threadIdx.x == 33) x[0] = x[-2000];
}
// Bytes that the page shares: AddressSanitizer would stop the process there.
__global__ __attribute__((no_sanitize("address"))) void write_just_past_the_end(float* x) {
    if (threadIdx.x == 33) x[kN] = 1;
}
__global__ __attribute__((no_sanitize("address"))) void write_just_before(float* x) {
    if (threadIdx.x == 33) x[-1] = 1;
}
__global__ void read_after_free(const float* freed, float* x) { x[threadIdx.x] = freed[0]; }
__global__ void misaligned_load(float* x) {
    if (threadIdx.x == 33) x[0] = cuda::load_vector<float4>(x + 1).x;
}
__global__ void misaligned_store(float* x) {
    if (threadIdx.x == 33) cuda::store_vector(x + 2, make_float4(1, 2, 3, 4));
}

// --- shared memory ---

__global__ void shared_read_past_the_end(float* x) {
    THIMBLE_SHARED(float, s, 64);
    s[threadIdx.x] = 1;
    __syncthreads();
    if (threadIdx.x == 33) x[0] = s[threadIdx.x + 31];
}
__global__ void shared_write_before(float* x) {
    THIMBLE_SHARED(float, s, 64);
    if (threadIdx.x == 33) s[static_cast<int>(threadIdx.x) - 34] = x[0];
}
__global__ void dynamic_write_past_the_end(float* x) {
    THIMBLE_DYNAMIC_SHARED(float, s);
    if (threadIdx.x == 33) s[64] = x[0];
}
__global__ void part_read_past_the_end(float* x) {
    THIMBLE_DYNAMIC_SHARED(float, s);
    const auto part = cuda::shared_part<int>(s, 8, 8);
    if (threadIdx.x < 8) part[threadIdx.x] = 1;
    __syncthreads();
    if (threadIdx.x == 3) x[0] = static_cast<float>(part[threadIdx.x + 5]);
}
__global__ void misaligned_shared_load(float* x) {
    THIMBLE_SHARED(float, s, 64);
    s[threadIdx.x] = 1;
    __syncthreads();
    if (threadIdx.x == 33) x[0] = cuda::shared_load<float4>(s, 2).x;
}
__global__ void read_of_uninitialised(float* x) {
    THIMBLE_SHARED(float, s, 64);
    if (threadIdx.x != 33) s[threadIdx.x] = 1;
    __syncthreads();
    x[threadIdx.x] = s[threadIdx.x];
}
__global__ void read_with_no_barrier(float* x) {
    THIMBLE_SHARED(float, s, 64);
    s[threadIdx.x] = 1;
    __syncthreads();
    s[threadIdx.x] = 2;
    x[threadIdx.x] = s[threadIdx.x ^ 32u];
}
// The values are read by all and replaced while some may still read.
__global__ void write_with_no_barrier(float* x) {
    THIMBLE_SHARED(float, s, 1);
    if (threadIdx.x == 0) s[0] = 1;
    __syncthreads();
    x[threadIdx.x] = s[0];
    if (threadIdx.x == 63) s[0] = 2;
}
__global__ void two_writers(float* x) {
    THIMBLE_SHARED(float, s, 1);
    if (threadIdx.x == 0 || threadIdx.x == 40) s[0] = 1;
    __syncthreads();
    x[threadIdx.x] = s[0];
}
__global__ void warp_synchronous(float* x) {
    THIMBLE_SHARED(float, s, 64);
    s[threadIdx.x] = 1;
    __syncthreads();
    s[threadIdx.x] = 2;
    x[threadIdx.x] = s[threadIdx.x ^ 1u];
}
__global__ void warp_synchronous_write(float* x) {
    THIMBLE_SHARED(float, s, 64);
    s[threadIdx.x] = 1;
    __syncwarp();
    x[threadIdx.x] = s[threadIdx.x ^ 1u];
    s[threadIdx.x] = 2;
}
__global__ void ordered_by_shuffle_only(float* x) {
    THIMBLE_SHARED(float, s, 64);
    s[threadIdx.x] = 1;
    const float other = __shfl_xor_sync(kAll, 1.0f, 1);
    x[threadIdx.x] = other + s[threadIdx.x ^ 1u];
}
// The lanes of either pair know of each other, not of the other pair.
__global__ void ordered_by_another_mask(float* x) {
    THIMBLE_SHARED(float, s, 4);
    if (threadIdx.x < 4) s[threadIdx.x] = 1;
    __syncthreads();
    if (threadIdx.x >= 4) return;
    s[threadIdx.x] = 1;
    __syncwarp(threadIdx.x < 2 ? 0x3 : 0xc);
    __syncwarp(threadIdx.x < 2 ? 0x3 : 0xc);
    x[threadIdx.x] = s[threadIdx.x ^ 2u];
}

// --- barriers and warps ---

__global__ void some_threads_exit(float* x) {
    if (threadIdx.x == 33) return;
    __syncthreads();
    x[threadIdx.x] = 1;
}
__global__ void barriers_at_two_places(float* x) {
    if (threadIdx.x % 2 == 0) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    x[threadIdx.x] = 1;
}
__global__ void one_barrier_more(float* x) {
    for (unsigned i = 0; i <= threadIdx.x / 32; ++i) __syncthreads();
    x[threadIdx.x] = 1;
}
__global__ void a_lane_never_joins(float* x) {
    if (threadIdx.x == 33) return;
    x[threadIdx.x] = __shfl_xor_sync(kAll, 1.0f, 1);
}
__global__ void a_lane_waits_at_the_barrier(float* x) {
    if (threadIdx.x != 33) x[threadIdx.x] = __shfl_xor_sync(kAll, 1.0f, 1);
    __syncthreads();
}
__global__ void two_warp_operations(float* x) {
    if (threadIdx.x % 2 == 0)
        x[threadIdx.x] = __shfl_xor_sync(kAll, 1.0f, 1);
    else
        x[threadIdx.x] = static_cast<float>(__any_sync(kAll, 1));
}
__global__ void two_masks(float* x) {
    x[threadIdx.x] = __shfl_xor_sync(threadIdx.x % 32 < 16 ? 0xffffu : kAll, 1.0f, 1);
}
__global__ void mask_without_itself(float* x) {
    x[threadIdx.x] = __shfl_xor_sync(0xfffffffeu, 1.0f, 2);
}
__global__ void mask_beyond_the_block(float* x) {
    if (threadIdx.x >= 32) x[threadIdx.x] = __shfl_xor_sync(0x3ffu, 1.0f, 1);
}

__global__ void shaped(int n) {
    THIMBLE_SHARED(float, s, 64);
    if (n < 0) s[0] = 0;
}
__global__ void increment(const float* x, float* out, int n) {
    const auto i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) out[i] = x[i] + 1;
}

// Two blocks of 64 threads, of which the first or the second is found.
#define THIMBLE_PLANTED(name, kind, says)                                                    \
    {                                                                                        \
#name, FaultKind::kind, says,                                                        \
            [](float* x,                                                                     \
               cuda::Stream& stream) { cuda::launch(#name, name, {2, 64, 256}, stream, x); } \
    }

const Planted kPlanted[] = {
    THIMBLE_PLANTED(read_past_the_end, kGlobalAccess,
                    "thread (33,0,0): accesses byte 4400 of an allocation of 400 bytes"),
    THIMBLE_PLANTED(write_past_the_end, kGlobalAccess,
                    "thread (33,0,0): accesses byte 4400 of an allocation of 400 bytes"),
    THIMBLE_PLANTED(read_before_the_beginning, kGlobalAccess,
                    "thread (33,0,0): accesses 8000 bytes before an allocation of 400 bytes"),
    THIMBLE_PLANTED(write_just_past_the_end, kGlobalAccess,
                    "wrote byte 400 of an allocation of 400 bytes"),
    THIMBLE_PLANTED(write_just_before, kGlobalAccess, "bytes before an allocation of 400 bytes"),
    {"read_after_free", FaultKind::kGlobalAccess, "in no allocation",
     [](float* x, cuda::Stream& stream) {
         void* gone = cuda::allocate_device(1 << 20);
         cuda::free_device(gone);
         cuda::launch("read_after_free", read_after_free, {2, 64}, stream,
                      static_cast<const float*>(gone), x);
     }},
    THIMBLE_PLANTED(misaligned_load, kMisaligned, "a global vector of 16 bytes"),
    THIMBLE_PLANTED(misaligned_store, kMisaligned, "a global vector of 16 bytes"),
    THIMBLE_PLANTED(shared_read_past_the_end, kSharedAccess,
                    "thread (33,0,0): accesses 4 bytes at element 64 of a shared array of 64"),
    THIMBLE_PLANTED(shared_write_before, kSharedAccess, "at element -1 of a shared array"),
    THIMBLE_PLANTED(dynamic_write_past_the_end, kSharedAccess, "at element 64 of a shared array"),
    THIMBLE_PLANTED(part_read_past_the_end, kSharedAccess, "at element 8 of a shared array of 8"),
    THIMBLE_PLANTED(misaligned_shared_load, kMisaligned, "a shared vector of 16 bytes"),
    THIMBLE_PLANTED(read_of_uninitialised, kSharedUninitialised,
                    "thread (33,0,0): reads shared memory that nobody wrote"),
    THIMBLE_PLANTED(read_with_no_barrier, kSharedRace, "with no barrier between"),
    THIMBLE_PLANTED(write_with_no_barrier, kSharedRace, "with no barrier between"),
    THIMBLE_PLANTED(two_writers, kSharedRace, "with no barrier between"),
    THIMBLE_PLANTED(warp_synchronous, kSharedRace, "with no barrier between"),
    THIMBLE_PLANTED(warp_synchronous_write, kSharedRace, "with no barrier between"),
    THIMBLE_PLANTED(ordered_by_shuffle_only, kSharedRace, "with no barrier between"),
    THIMBLE_PLANTED(ordered_by_another_mask, kSharedRace, "with no barrier between"),
    THIMBLE_PLANTED(some_threads_exit, kBarrier,
                    "thread (33,0,0): ended while others wait at a barrier"),
    THIMBLE_PLANTED(barriers_at_two_places, kBarrier, "waits at another barrier (line"),
    THIMBLE_PLANTED(one_barrier_more, kBarrier, "ended while others wait at a barrier"),
    THIMBLE_PLANTED(a_lane_never_joins, kWarp, "never joins it"),
    THIMBLE_PLANTED(a_lane_waits_at_the_barrier, kWarp, "never joins it"),
    THIMBLE_PLANTED(two_warp_operations, kWarp, "meet in different warp operations (lines"),
    THIMBLE_PLANTED(two_masks, kWarp, "never joins it"),
    THIMBLE_PLANTED(mask_without_itself, kWarp, "whose mask leaves it out"),
    {"mask_beyond_the_block", FaultKind::kWarp, "names lanes that the block does not have",
     [](float* x, cuda::Stream& stream) {
         cuda::launch("mask_beyond_the_block", mask_beyond_the_block, {1, 40}, stream, x);
     }},
};

}  // namespace

std::span<const Planted> planted() { return kPlanted; }

void launch_shaped(const unsigned (&grid)[3], const unsigned (&block)[3], std::size_t shared_bytes,
                   cuda::Stream& stream) {
    cuda::launch(
        "shaped", shaped,
        {dim3(grid[0], grid[1], grid[2]), dim3(block[0], block[1], block[2]), shared_bytes}, stream,
        1);
}

void launch_increment(const float* x, float* out, int n, cuda::Stream& stream) {
    cuda::launch("increment", increment, {cuda::blocks_for(n, 64), 64}, stream, x, out, n);
}

void forget_runtime_error() { (void)cudaStreamSynchronize(nullptr); }

void forget_launch_error() {
    emu::Launch work;
    work.name = "lost", work.kernel = [] {};
    (void)emu::launch(work, nullptr);  // no stream
}

void launch_unchecked_twice() {
    for (int i = 0; i < 2; ++i) {
        emu::Launch work;
        work.name = i == 0 ? "first" : "second", work.kernel = [] {};
        (void)static_cast<cudaErrorCode>(emu::launch(work, nullptr));  // but not cudaGetLastError
    }
}

}  // namespace thimble::cuda_test
