// SPDX-License-Identifier: Apache-2.0
// Non-owning views of row-major activations. Computation runs in F32 on the CPU and CUDA devices
// and in F64 on the reference device; blocks pass views along and never name the element type.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tensor/dtype.h"

namespace thimble {

enum class Device : std::uint8_t {
    kCpu,   // F32, SIMD kernels
    kRef,   // host memory, everything in F64, kernels/ref: the oracle
    kCuda,  // device memory, F32, CUDA kernels; Views point to device memory
};

// "cpu", "cuda", "ref".
[[nodiscard]] Device device_named(std::string_view name) noexcept;

// [rows, cols], `stride` elements from one row to the next.
struct View {
    void* data = nullptr;
    DType dtype = DType::kF32;
    std::int64_t rows = 0, cols = 0, stride = 0;

    [[nodiscard]] std::byte* row_bytes(std::int64_t r) const noexcept {
        return static_cast<std::byte*>(data) +
               static_cast<std::size_t>(r * stride) * size_of(dtype);
    }
    template <class T>
    [[nodiscard]] T* row(std::int64_t r) const noexcept {
        assert(sizeof(T) == size_of(dtype));
        return reinterpret_cast<T*>(row_bytes(r));
    }
    [[nodiscard]] View slice_rows(std::int64_t first, std::int64_t count) const noexcept {
        return {row_bytes(first), dtype, count, cols, stride};
    }
    [[nodiscard]] View slice_cols(std::int64_t first, std::int64_t count) const noexcept {
        return {static_cast<std::byte*>(data) + static_cast<std::size_t>(first) * size_of(dtype),
                dtype, rows, count, stride};
    }
};

// A range of rows [first, first + count).
struct RowRange {
    std::int64_t first = 0, count = 0;
};

}  // namespace thimble
