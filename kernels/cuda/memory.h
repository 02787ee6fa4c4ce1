// SPDX-License-Identifier: Apache-2.0
// Device and pinned memory, and copies on a stream. Everything here throws Failure; freeing does
// not.
#pragma once

#include <cstddef>

#include "kernels/cuda/stream.h"

namespace thimble::cuda {

// 256-byte aligned; 0 bytes: null.
[[nodiscard]] void* allocate_device(std::size_t bytes);
void free_device(void* p) noexcept;
[[nodiscard]] void* allocate_pinned(std::size_t bytes);
void free_pinned(void* p) noexcept;

// Host memory that is not pinned is copied before the call returns.
void copy_to_device(Stream& stream, void* to, const void* from, std::size_t bytes);
void copy_to_host(Stream& stream, void* to, const void* from, std::size_t bytes);
void copy_on_device(Stream& stream, void* to, const void* from, std::size_t bytes);
// Rows of `width` bytes, `pitch` bytes apart.
struct Rows {
    void* to;
    std::size_t to_pitch;
    const void* from;
    std::size_t from_pitch, width, rows;
};
void copy_rows_to_device(Stream& stream, const Rows& rows);
void copy_rows_to_host(Stream& stream, const Rows& rows);
void copy_rows_on_device(Stream& stream, const Rows& rows);
void fill(Stream& stream, void* p, unsigned char value, std::size_t bytes);

}  // namespace thimble::cuda
