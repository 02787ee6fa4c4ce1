// SPDX-License-Identifier: Apache-2.0
// Resident twins of the stored layouts. Sixteen rows are woven together, so that one 64-byte vector
// holds one column (floats) or four columns (codes) of all sixteen, and an output row is a lane.
// The values are those of the stored block, bit for bit; only rows that pad the last group are new
// (bytes of zero: no weights to speak of).
#pragma once

#include "kernels/layout/all.h"
#include "kernels/layout/code_planes.h"

namespace thimble {

inline constexpr int kGroupRows = 16;

// Specialised for every layout of interleaved.def with
//   static constexpr LayoutId kStored;
//   struct Block;                    16 rows x kElements columns
//   static constexpr int kElements;
//   static void pack(const Stored&, int row, Block&);   stored block into lane `row`
//   static void unpack(const Block&, int row, Real* out /* [kElements] */);
// and, where weights are codes, w = scale * (code - kOffset) + minimum, codes of at most kBits
// bits, with kScales scales per 32 columns. Where kTableValues, w = scale * values[code] instead,
// the values those of params; where kFloatValues, no product of bytes has them.
// Stored layouts of several planes have, with params as the matrix has them,
//   static bool fits(const LayoutParams&);              whether there is a twin
//   static void set_values(const PackedRow&, LayoutParams&);   where it keeps some there
//   static void pack(const PackedRow&, std::int64_t first, int row, Block&);
//   static void unpack(const Block&, int row, const LayoutParams&, Real* out /* [kElements] */);
// Where kWoven, what 16 rows take is not so many blocks: twins_of_sparse.h.
template <LayoutId>
struct Interleaved;
template <LayoutId id>
inline constexpr bool kWoven = requires {
    Interleaved<id>::kWoven;
};
template <LayoutId id>
inline constexpr bool kFloatValues = requires {
    Interleaved<id>::kFloatValues;
};
template <LayoutId id>
inline constexpr bool kTableValues = requires {
    Interleaved<id>::kTableValues;
};
template <LayoutId id>
inline constexpr bool kOfPlanes = requires {
    Layout<Interleaved<id>::kStored>::kPlanes;
};

}  // namespace thimble
