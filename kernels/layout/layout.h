// SPDX-License-Identifier: Apache-2.0
// Packed layouts by identity. Each layout's own header holds its POD block (or what each of its
// planes holds), a byte diagram and `unpack`.
#pragma once

#include <cstddef>
#include <cstdint>

namespace thimble {

enum class LayoutId : std::uint16_t {
#define THIMBLE_LAYOUT(id) k_##id,
#define THIMBLE_PLANES(id) k_##id,
#include "kernels/layout/layouts.def"
#undef THIMBLE_LAYOUT
#define THIMBLE_INTERLEAVED(stored, twin) k_##twin##_x16,
#include "kernels/layout/interleaved.def"
#undef THIMBLE_INTERLEAVED
};

// Specialised in kernels/layout/<id>.h with:
//   struct Block;                               the POD stored on disk
//   static constexpr int kElements;             weights per block, along the row
//   template <class Real> static void unpack(const Block&, Real* out /* [kElements] */);
// or, for a layout of several planes, with:
//   static constexpr int kPlanes;               at most kMaxPlanes
//   static constexpr int kElements;             what a range of columns is a multiple of
//   template <class Real>
//   static void unpack(const PackedRow&, std::int64_t first, std::int64_t count, Real* out);
template <LayoutId>
struct Layout;

inline constexpr int kMaxPlanes = 5;

enum class ScaleType : std::uint8_t { kF32, kF16, kBF16, kNested, kE8m0 };

// What a layout of several planes leaves to the matrix; zero where the layout says it all.
struct LayoutParams {
    std::int32_t bits = 0;   // of a code
    std::int32_t group = 0;  // columns under one scale
    ScaleType scale = ScaleType::kF32;
    std::int32_t zero_bits = 0;  // of a zero point, behind the point
    std::int32_t rows = 1;       // that share a table, the first of them a multiple of it
    std::int32_t slots = 0;      // of a row, for the weights that it keeps
    float values[16] = {};       // that 4-bit codes name; of resident layouts only
    friend bool operator==(const LayoutParams&, const LayoutParams&) = default;
};

// One row of a matrix in any stored layout: where each plane's part of it begins (null: the matrix
// has no such plane).
struct PackedRow {
    const void* planes[kMaxPlanes];
    LayoutParams params;
};

// Facts needed without the layout's own header. A block covers block_rows rows (1 for layouts that
// files hold, 16 for interleaved ones) by block_elements columns; a layout of several planes has no
// block_bytes.
struct LayoutInfo {
    const char* name;
    int block_elements;
    std::size_t block_bytes;
    int block_rows = 1;
};
const LayoutInfo& layout_info(LayoutId id);

}  // namespace thimble
