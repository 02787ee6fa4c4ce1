// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/device/reduce.cuh"
#include "planted.h"

namespace thimble::cuda_test {
namespace {

constexpr unsigned kAll = 0xffffffffu;

// Halves of a warp that do different numbers of operations, then all lanes together.
__global__ void sub_masks(float* out) {
    const unsigned lane = threadIdx.x % 32;
    float x = static_cast<float>(lane);
    if (lane < 16) {
        for (int by = 8; by > 0; by /= 2) x += __shfl_xor_sync(0xffffu, x, by);
    } else {
        x = __shfl_sync(0xffff0000u, x, 31);
    }
    x += __shfl_xor_sync(kAll, x, 16);
    // The lower half runs ahead by two operations while the upper still looks at this one.
    if (lane < 16) x += 0 * __shfl_xor_sync(0xffffu, __shfl_xor_sync(0xffffu, -1.0f, 1), 1);
    out[threadIdx.x] = x;
}

// Masks that overlap, each joined by exactly its lanes.
__global__ void overlapping_masks(float* out) {
    THIMBLE_SHARED(float, s, 3);
    if (threadIdx.x < 3) {
        s[threadIdx.x] = static_cast<float>(threadIdx.x + 1);
        if (threadIdx.x < 2) __syncwarp(0x3);
        if (threadIdx.x == 0) s[0] = s[0] + s[1];
        if (threadIdx.x != 1) __syncwarp(0x5);
        if (threadIdx.x == 2) out[0] = s[0] + s[2];
    }
}

// A lane that has met others more often than the one whose value it reads.
__global__ void uneven_meetings(float* out) {
    THIMBLE_SHARED(float, s, 32);
    const unsigned lane = threadIdx.x;
    if (lane < 2) {
        for (int i = 0; i < 9; ++i) __syncwarp(0x3);
    }
    s[lane] = static_cast<float>(lane);
    __syncwarp();
    out[lane] = s[31 - lane];
}

__global__ void syncwarp_exchange(float* out) {
    THIMBLE_SHARED(float, s, 64);
    for (int round = 0; round < 3; ++round) {
        s[threadIdx.x] = static_cast<float>(threadIdx.x);
        __syncwarp();
        const float other = s[threadIdx.x ^ 31u];
        __syncwarp();
        out[threadIdx.x] = other;
    }
}

__global__ void reductions(float* out) {
    THIMBLE_SHARED(float, scratch, 32);
    float sum = 0;
    for (int round = 0; round < 3; ++round) {
        sum += cuda::block_sum(1.0f, scratch);
        sum += cuda::block_max(static_cast<float>(threadIdx.x), scratch);
    }
    out[threadIdx.x] = sum;
}

// No barrier after the exit; whole warps go, and single threads.
__global__ void early_exit(float* out) {
    if (threadIdx.x >= 32) {
        if (threadIdx.x % 2 == 0) out[threadIdx.x] = 1;
        if (threadIdx.x % 2 == 0 || threadIdx.x > 60) return;
        out[threadIdx.x] = 2;
        return;
    }
    out[threadIdx.x] = cuda::warp_sum(1.0f);
}

__global__ void both_kinds_of_shared(float* out) {
    THIMBLE_SHARED(float, one, 64);
    THIMBLE_SHARED(int, two, 64);
    THIMBLE_DYNAMIC_SHARED(float, three);
    const unsigned t = threadIdx.x;
    one[t] = 1;
    two[t] = 20;
    three[t] = 300;
    __syncthreads();
    out[t] = one[63 - t] + static_cast<float>(two[63 - t]) + three[63 - t];
}

__global__ void vectors_in_shared(float* out) {
    THIMBLE_DYNAMIC_SHARED(unsigned char, raw);
    auto floats = cuda::shared_part<float>(raw, 64, 64);
    if (threadIdx.x < 16) {
        const auto x = static_cast<float>(4 * threadIdx.x);
        cuda::shared_store(floats, static_cast<int>(4 * threadIdx.x),
                           make_float4(x, x + 1, x + 2, x + 3));
    }
    __syncthreads();
    out[threadIdx.x] = cuda::shared_load<float4>(floats, static_cast<int>(threadIdx.x / 4 * 4)).y;
}

__global__ void many_threads(float* out) {
    THIMBLE_SHARED(float, s, 1024);
    s[threadIdx.x] = static_cast<float>(threadIdx.x);
    for (unsigned half = 512; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) s[threadIdx.x] += s[threadIdx.x + half];
    }
    if (threadIdx.x == 0) out[0] = s[0];
}

__global__ void three_dimensions(float* out) {
    const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    __syncthreads();
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] =
        static_cast<float>(block * 1000 + thread);
}

__global__ void partial_warp(float* out) {
    const float sum = cuda::warp_sum(1.0f);
    const unsigned there = __ballot_sync(kAll, 1);
    const int all = __all_sync(kAll, 1), any = __any_sync(kAll, threadIdx.x == 69);
    __syncwarp();
    __syncthreads();
    // A lane that is not there gives back one's own value; 6 lanes: 1s add up with each step.
    out[threadIdx.x] =
        threadIdx.x < 64 ? sum : static_cast<float>(__popc(there) + 10 * all + 20 * any);
}

// 48 KiB in all.
__global__ void all_of_shared(float* out) {
    THIMBLE_SHARED(float, last, 64);
    THIMBLE_DYNAMIC_SHARED(float, s);
    for (int i = static_cast<int>(threadIdx.x); i < 12224; i += 64) s[i] = 1;
    last[threadIdx.x] = 2;
    __syncthreads();
    out[threadIdx.x] = s[12223 - threadIdx.x] + last[63 - threadIdx.x];
}

#define THIMBLE_CORRECT(name, outputs, want, ...)                                         \
    {                                                                                     \
#name, outputs, [](int i) -> float { (void)i; return want; },                           \
            [](float* out, cuda::Stream& stream) {                                              \
                cuda::launch(#name, name, {__VA_ARGS__}, stream, out);                          \
            } \
    }

float half_of(int lane) { return lane < 16 ? 120 : 31; }

const Correct kCorrect[] = {
    THIMBLE_CORRECT(sub_masks, 64, half_of(i % 32) + half_of((i % 32) ^ 16), 1, 64),
    THIMBLE_CORRECT(overlapping_masks, 1, 6, 1, 32),
    THIMBLE_CORRECT(uneven_meetings, 32, static_cast<float>(31 - i), 1, 32),
    THIMBLE_CORRECT(syncwarp_exchange, 64, static_cast<float>(i ^ 31), 1, 64),
    THIMBLE_CORRECT(reductions, 96, 3 * (96 + 95), 1, 96),
    THIMBLE_CORRECT(early_exit, 61, i < 32 ? 32.0f : static_cast<float>(1 + i % 2), 1, 61),
    THIMBLE_CORRECT(both_kinds_of_shared, 64, 321, 1, 64, 256),
    THIMBLE_CORRECT(vectors_in_shared, 64, static_cast<float>(i / 4 * 4 + 1), 1, 64, 320),
    THIMBLE_CORRECT(many_threads, 1, 523776, 1, 1024),
    THIMBLE_CORRECT(three_dimensions, 6 * 1024, static_cast<float>(i / 1024 * 1000 + i % 1024),
                    dim3(1, 2, 3), dim3(4, 16, 16)),
    THIMBLE_CORRECT(partial_warp, 70, i < 64 ? 32 : 36, 1, 70),
    THIMBLE_CORRECT(all_of_shared, 64, 3, 1, 64, 48896),
};

}  // namespace

std::span<const Correct> correct() { return kCorrect; }

}  // namespace thimble::cuda_test
