// SPDX-License-Identifier: Apache-2.0
// The one way kernels are started, and the words in which they name shared memory and wide loads,
// so that the same source runs on a device and emulated. Kernels are never started with <<<>>>,
// never take the address of shared memory and use no float atomics.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <type_traits>

#include "kernels/cuda/failure.h"
#include "kernels/cuda/stream.h"

namespace thimble::cuda {

inline void check(cudaError_t result, const char* what) {
    const auto code = static_cast<decltype(cudaSuccess)>(result);
    if (code == cudaSuccess) return;
    (void)static_cast<decltype(cudaSuccess)>(cudaGetLastError());  // takes note: it is thrown here
    char text[320];
    const char* why = cudaGetErrorString(code);
#ifdef THIMBLE_CUDA_EMULATED
    const std::string fault = emu::fault().what;
    if (!fault.empty() && code != cudaErrorMemoryAllocation) why = fault.c_str();
#endif
    std::snprintf(text, sizeof text, "%s: %s", what, why);
    throw Failure(
        code == cudaErrorMemoryAllocation ? Failure::Kind::kOutOfMemory : Failure::Kind::kBroken,
        text);
}

inline cudaStream_t raw(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }

struct LaunchShape {
    dim3 grid, block;
    std::size_t shared_bytes = 0;
};

// Nothing is launched for an empty grid.
template <class... P>
void launch(const char* name, void (*kernel)(P...), const LaunchShape& shape, Stream& stream,
            std::type_identity_t<P>... arguments) {
    if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
    constexpr std::size_t kWithoutAsking = 48 << 10;
#ifdef THIMBLE_CUDA_EMULATED
    emu::Launch work;
    work.name = name, work.grid = shape.grid, work.block = shape.block;
    work.shared_bytes = shape.shared_bytes;
    if (shape.shared_bytes > kWithoutAsking) work.shared_limit = emu::shared_optin_bytes();
    work.kernel = [=] { kernel(arguments...); };
    check(emu::launch(work, raw(stream)), name);
#else
    if (shape.shared_bytes > kWithoutAsking) {
        check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(shape.shared_bytes)),
              name);
    }
    void* pointers[] = {static_cast<void*>(&arguments)...};
    check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), shape.grid, shape.block, pointers,
                           shape.shared_bytes, raw(stream)),
          name);
    check(cudaGetLastError(), name);
#endif
}

// --- shared memory: arrays that are indexed, and these ---
#ifdef THIMBLE_CUDA_EMULATED
#define THIMBLE_SHARED(type, name, count)    \
    static const char name##_site = 0;       \
    const ::thimble::emu::Shared<type> name( \
        ::thimble::emu::shared_array(&name##_site, sizeof(type) * (count), 16), (count))
#define THIMBLE_DYNAMIC_SHARED(type, name)                                    \
    const ::thimble::emu::Shared<type> name(::thimble::emu::dynamic_shared(), \
                                            ::thimble::emu::dynamic_shared_bytes() / sizeof(type))
#else
#define THIMBLE_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define THIMBLE_DYNAMIC_SHARED(type, name)                                  \
    extern __shared__ __align__(16) unsigned char thimble_dynamic_shared[]; \
    type* const name = reinterpret_cast<type*>(thimble_dynamic_shared)
#endif

// A vector V of elements i, i + 1, ... of a shared array; i is a multiple of their number.
template <class V, class Array>
__device__ __forceinline__ V shared_load(Array&& array, int i) {
#ifdef THIMBLE_CUDA_EMULATED
    return array.template load<V>(i);
#else
    return *reinterpret_cast<const V*>(&array[i]);
#endif
}
template <class V, class Array>
__device__ __forceinline__ void shared_store(Array&& array, int i, const V& value) {
#ifdef THIMBLE_CUDA_EMULATED
    array.template store<V>(i, value);
#else
    *reinterpret_cast<V*>(&array[i]) = value;
#endif
}
// Elements from `first` on, seen as `count` of U.
template <class U, class Array>
__device__ __forceinline__ auto shared_part(Array&& array, int first, int count) {
#ifdef THIMBLE_CUDA_EMULATED
    return array.template part<U>(first, static_cast<std::size_t>(count));
#else
    (void)count;
    return reinterpret_cast<U*>(&array[first]);
#endif
}

// --- global memory ---

// One load of sizeof(V) bytes (16: LDG.128); p is a multiple of it.
template <class V>
__device__ __forceinline__ V load_vector(const void* p) {
#ifdef THIMBLE_CUDA_EMULATED
    if (reinterpret_cast<std::uintptr_t>(p) % sizeof(V) != 0) emu::misaligned("global", sizeof(V));
#endif
    return __ldg(static_cast<const V*>(p));
}
template <class V>
__device__ __forceinline__ void store_vector(void* p, const V& value) {
#ifdef THIMBLE_CUDA_EMULATED
    if (reinterpret_cast<std::uintptr_t>(p) % sizeof(V) != 0) emu::misaligned("global", sizeof(V));
#endif
    *static_cast<V*>(p) = value;
}

inline unsigned blocks_for(std::int64_t items, std::int64_t each) {
    return static_cast<unsigned>((items + each - 1) / each);
}

}  // namespace thimble::cuda
