// SPDX-License-Identifier: Apache-2.0
// The part of CUDA C++ and of its runtime that the kernels and the backend use, on the host. Names
// and meanings are the toolkit's.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/emu/block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __restrict__ __restrict
#define __launch_bounds__(...)

// --- types ---

using dim3 = thimble::emu::Dim3;
#define THIMBLE_EMU_VECTOR2(type, name)     \
    struct alignas(2 * sizeof(type)) name { \
        type x, y;                          \
    };
#define THIMBLE_EMU_VECTOR4(type, name)     \
    struct alignas(4 * sizeof(type)) name { \
        type x, y, z, w;                    \
    };
THIMBLE_EMU_VECTOR2(float, float2)
THIMBLE_EMU_VECTOR4(float, float4)
THIMBLE_EMU_VECTOR2(int, int2)
THIMBLE_EMU_VECTOR4(int, int4)
THIMBLE_EMU_VECTOR2(unsigned, uint2)
THIMBLE_EMU_VECTOR4(unsigned, uint4)
#undef THIMBLE_EMU_VECTOR2
#undef THIMBLE_EMU_VECTOR4
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// --- inside a kernel ---

#define threadIdx (::thimble::emu::self().index)
#define blockIdx (::thimble::emu::self().block)
#define blockDim (::thimble::emu::self().block_dim)
#define gridDim (::thimble::emu::self().grid_dim)
inline constexpr int warpSize = 32;

#define __syncthreads() ::thimble::emu::barrier(__LINE__)

inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
    (void)thimble::emu::warp_exchange(mask, line, nullptr, 0);
}
namespace thimble::emu {
template <class T>
T slot(const std::byte* slots, unsigned lane) {
    T value;
    std::memcpy(&value, slots + lane * kWarpSlot, sizeof value);
    return value;
}
// Whether this block has the lane.
inline bool lane_present(unsigned lane) {
    const Thread& t = self();
    return (t.linear & ~31u) + lane < t.block_threads;
}
}  // namespace thimble::emu
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, int line = __builtin_LINE()) {
    const auto* slots = thimble::emu::warp_exchange(mask, line, &value, sizeof value);
    const unsigned me = thimble::emu::self().linear % 32, w = static_cast<unsigned>(width);
    return thimble::emu::slot<T>(slots, (me & ~(w - 1)) + (static_cast<unsigned>(lane) & (w - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, int line = __builtin_LINE()) {
    const auto* slots = thimble::emu::warp_exchange(mask, line, &value, sizeof value);
    const unsigned me = thimble::emu::self().linear % 32, from = me ^ static_cast<unsigned>(lanes);
    const unsigned w = static_cast<unsigned>(width);
    if ((from & ~(w - 1)) > me || !thimble::emu::lane_present(from)) return value;
    return thimble::emu::slot<T>(slots, from);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32,
                   int line = __builtin_LINE()) {
    const auto* slots = thimble::emu::warp_exchange(mask, line, &value, sizeof value);
    const unsigned me = thimble::emu::self().linear % 32, w = static_cast<unsigned>(width);
    if ((me & (w - 1)) + by >= w || !thimble::emu::lane_present(me + by)) return value;
    return thimble::emu::slot<T>(slots, me + by);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    const auto* slots = thimble::emu::warp_exchange(mask, line, &predicate, sizeof predicate);
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; ++lane) {
        if ((mask >> lane & 1u) != 0 && thimble::emu::lane_present(lane) &&
            thimble::emu::slot<int>(slots, lane) != 0)
            bits |= 1u << lane;
    }
    return bits;
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return __ballot_sync(mask, predicate, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return __ballot_sync(mask, predicate == 0, line) == 0;
}

inline int atomicAdd(int* p, int value) { return __atomic_fetch_add(p, value, __ATOMIC_RELAXED); }
inline unsigned atomicAdd(unsigned* p, unsigned value) {
    return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

template <class T>
T __ldg(const T* p) {
    return *p;
}
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
// Never contracted to one fused operation.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float fmaf(float a, float b, float c) { return std::fma(a, b, c); }
inline void sincos(double x, double* s, double* c) { *s = std::sin(x), *c = std::cos(x); }
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; ++i)
        c += static_cast<std::int8_t>(a >> 8 * i) * static_cast<std::int8_t>(b >> 8 * i);
    return c;
}
inline int __dp4a(unsigned a, int b, int c) = delete;  // mixed signs exist only as PTX
// To nearest, ties to even; beyond an int the nearest one, NaN to 0.
inline int __float2int_rn(float x) {
    if (!(x == x)) return 0;
    if (x >= 2147483648.0f) return 2147483647;
    return x < -2147483648.0f ? -2147483647 - 1 : static_cast<int>(std::nearbyint(x));
}
// Byte i of the result is byte (selector >> 4 i & 7) of a, then b.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const std::uint64_t both = std::uint64_t{b} << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; ++i)
        out |= (static_cast<unsigned>(both >> 8 * (selector >> 4 * i & 7u)) & 255u) << 8 * i;
    return out;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float __int_as_float(int x) {
    float f;
    std::memcpy(&f, &x, sizeof f);
    return f;
}
inline int __float_as_int(float x) {
    int i;
    std::memcpy(&i, &x, sizeof i);
    return i;
}
inline unsigned __float_as_uint(float x) { return static_cast<unsigned>(__float_as_int(x)); }
inline float __uint_as_float(unsigned x) { return __int_as_float(static_cast<int>(x)); }

// --- runtime ---

enum cudaErrorCode : int {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
    cudaErrorLaunchFailure = 719,
};
// A result that must be looked at: one that is dropped while it is an error is noted as a fault.
class [[nodiscard]] cudaError_t {
  public:
    cudaError_t(cudaErrorCode code) : code_(code), seen_(code == cudaSuccess) {}  // NOLINT
    cudaError_t(const cudaError_t& other) : code_(other.code_), seen_(other.seen_) {
        other.seen_ = true;
    }
    cudaError_t& operator=(const cudaError_t& other) {
        code_ = other.code_, seen_ = other.seen_;
        other.seen_ = true;
        return *this;
    }
    ~cudaError_t();
    operator cudaErrorCode() const {  // NOLINT: stands for it
        seen_ = true;
        return code_;
    }

  private:
    cudaErrorCode code_;
    mutable bool seen_;
};

struct ThimbleEmuStream;
struct ThimbleEmuEvent;
using cudaStream_t = ThimbleEmuStream*;
using cudaEvent_t = ThimbleEmuEvent*;

struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
    std::size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin;
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
inline constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2,
                          cudaHostAllocDefault = 0;

const char* cudaGetErrorString(cudaErrorCode code);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaMalloc(void** p, std::size_t bytes);
cudaError_t cudaFree(void* p);
cudaError_t cudaHostAlloc(void** p, std::size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* p);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaGetLastError();

namespace thimble::emu {
// Queues a kernel; `shared_limit` is what the kernel opted in to. Refused launches set the last
// error, as a launch does.
cudaError_t launch(Launch launch, cudaStream_t stream);
// Queues host code as a part of the stream's work.
void enqueue(cudaStream_t stream, std::function<bool()> work);
std::size_t shared_optin_bytes();
}  // namespace thimble::emu
