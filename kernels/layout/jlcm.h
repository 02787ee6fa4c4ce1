// SPDX-License-Identifier: Apache-2.0
// jlcm: codes of 2 to 4 bits into books of whole numbers, one of which each row takes; rows of like
// distribution share a book ("Jointly learnable codebooks and mappings", ICLR 2024, has the idea;
// the layout is ours).
//   w[k] = scale[g] / 128 * books[2^bits * book + code[k]]             g = k / group
//
//   plane 0  codes   a row's codes one after the other, the lowest bit of the row first
//   plane 1  scales  [groups] f16
//   plane 2  book    [1] i16, read as unsigned; called tile_book where 16 rows, the first of them a
//                    multiple of 16, have the same (params.rows)
//   plane 3  books   [books * 2^bits] i8, each book ascending; for all rows
// differs: books are bytes, not floats, so that products with 8-bit activations are whole. The 255
// values reach the largest; what rounding to them adds to an error is a few thousandths of it.
#pragma once

#include "kernels/layout/code_bits.h"
#include "kernels/layout/half.h"
#include "kernels/layout/layout.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_jlcm> {
    enum Plane : int { kCodes, kScales, kBook, kBooks };
    static constexpr int kPlanes = 4;
    static constexpr int kElements = 32;
    static constexpr int kTileRows = 16;
    static constexpr float kUnit = 1.0f / 128;

    THIMBLE_HOST_DEVICE static int book_at(const PackedRow& row) {
        return static_cast<const std::uint16_t*>(row.planes[kBook])[0];
    }
    THIMBLE_HOST_DEVICE static const std::int8_t* values_at(const PackedRow& row) {
        return static_cast<const std::int8_t*>(row.planes[kBooks]) +
               (static_cast<std::int64_t>(book_at(row)) << row.params.bits);
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const PackedRow& row, std::int64_t first,
                                           std::int64_t count, Real* out) {
        const auto* from =
            static_cast<const std::uint8_t*>(row.planes[kCodes]) + first / 8 * row.params.bits;
        const auto* scales = static_cast<const std::uint16_t*>(row.planes[kScales]);
        const std::int8_t* values = values_at(row);
        std::uint8_t codes[kElements];
        for (std::int64_t k = 0; k < count; k += kElements, from += 4 * row.params.bits) {
            unpack_codes(row.params.bits, from, codes);
            const Real scale =
                static_cast<Real>(f16_to_f32(scales[(first + k) / row.params.group]) * kUnit);
            for (int i = 0; i < kElements; ++i)
                out[k + i] = scale * static_cast<Real>(values[codes[i]]);
        }
    }
};

}  // namespace thimble
