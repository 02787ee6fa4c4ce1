// SPDX-License-Identifier: Apache-2.0
// Packed layouts by identity. Each layout's own header holds its POD block, a byte diagram and
// `unpack`.
#pragma once

#include <cstddef>
#include <cstdint>

namespace thimble {

enum class LayoutId : std::uint16_t {
#define THIMBLE_LAYOUT(id) k_##id,
#include "kernels/layout/layouts.def"
#undef THIMBLE_LAYOUT
#define THIMBLE_INTERLEAVED(id) k_##id##_x16,
#include "kernels/layout/interleaved.def"
#undef THIMBLE_INTERLEAVED
};

// Specialised in kernels/layout/<id>.h with:
//   struct Block;                               the POD stored on disk
//   static constexpr int kElements;             weights per block, along the row
//   template <class Real> static void unpack(const Block&, Real* out /* [kElements] */);
template <LayoutId>
struct Layout;

// Facts needed without the layout's own header. A block covers block_rows rows (1 for layouts that
// files hold, 16 for interleaved ones) by block_elements columns.
struct LayoutInfo {
    const char* name;
    int block_elements;
    std::size_t block_bytes;
    int block_rows = 1;
};
const LayoutInfo& layout_info(LayoutId id);

}  // namespace thimble
