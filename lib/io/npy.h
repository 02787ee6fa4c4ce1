// SPDX-License-Identifier: Apache-2.0
// The header of a NumPy array file (.npy, versions 1.0 and 2.0), fully checked, data untouched: two
// dimensions of little-endian f4 or f2, in C order, that take the file exactly. NumPy Enhancement
// Proposal 1 describes the format; the dictionary in it is read by rule, not evaluated.
#pragma once

#include "io/cursor.h"
#include "io/model_file.h"

namespace thimble {

inline constexpr std::string_view kNpyMagic = "\x93NUMPY";
inline constexpr std::uint64_t kNpyMaxHeaderBytes = std::uint64_t{64} << 10;

struct NpyHeader {
    TensorType type = TensorType::kF32;  // or kF16
    std::uint64_t rows = 0, cols = 0;
    std::uint64_t data_offset = 0;
};

[[nodiscard]] NpyHeader parse_npy_header(Cursor& cursor, std::uint64_t file_bytes);

// Of float32 numbers, version 1.0; data follow.
[[nodiscard]] std::string npy_header(std::uint64_t rows, std::uint64_t cols);

}  // namespace thimble
