// SPDX-License-Identifier: Apache-2.0
// bitmod: 3- and 4-bit floating-point codes whose minus zero is a special value that each group
// chooses among four ("BitMoD: Bit-serial Mixture-of-Datatype LLM Acceleration", 2025, table 2).
//   w[k] = scale[g] * value(code[k], id[g])                            g = k / group
//
//   4 bits: the sign, then 0 1 2 3 4 6 8 12;  code 8: 10, -10, 16 or -16
//   3 bits: the sign, then 0 1 2 4;           code 4: 3, -3, 6 or -6
//
//   plane 0  codes   a row's codes one after the other, the lowest bit of the row first
//   plane 1  scales  [groups] f16
//   plane 2  ids     two bits for each group, the lowest first
#pragma once

#include "kernels/layout/code_bits.h"
#include "kernels/layout/e2m1.h"
#include "kernels/layout/layout.h"

namespace thimble {

// Whole values of codes, twice what E2M1 and its 3-bit sibling have.
template <int bits>
struct Bitmod {
    static_assert(bits == 3 || bits == 4);
    static constexpr int kVariants = 4;
    static constexpr int kSpecial = 1 << (bits - 1);  // the code
    static constexpr int kOffset = 16;                // added, it makes every value positive
    static constexpr int kBits = 6;                   // of such a sum
    THIMBLE_HOST_DEVICE static constexpr int special(int id) {
        const int magnitude = bits == 4 ? (id < 2 ? 10 : 16) : (id < 2 ? 3 : 6);
        return id % 2 == 0 ? magnitude : -magnitude;
    }
    THIMBLE_HOST_DEVICE static constexpr int value(int code) {  // but of the special one
        if (bits == 4) return E2m1::value(code);
        const int magnitude = (1 << (code & 3)) >> 1;
        return (code & 4) != 0 ? -magnitude : magnitude;
    }
    THIMBLE_HOST_DEVICE static constexpr int most(int id) {  // the largest magnitude
        const int own = special(id) < 0 ? -special(id) : special(id), base = bits == 4 ? 12 : 4;
        return own > base ? own : base;
    }
};

template <>
struct Layout<LayoutId::k_bitmod> {
    enum Plane : int { kCodes, kScales, kIds };
    static constexpr int kPlanes = 3;
    static constexpr int kElements = 32;

    THIMBLE_HOST_DEVICE static int id_at(const PackedRow& row, std::int64_t g) {
        return static_cast<const std::uint8_t*>(row.planes[kIds])[g / 4] >> (2 * (g % 4)) & 3;
    }
    template <int bits, class Real>
    THIMBLE_HOST_DEVICE static void unpack_bits(const PackedRow& row, std::int64_t first,
                                                std::int64_t count, Real* out) {
        using Values = Bitmod<bits>;
        const auto* from = static_cast<const std::uint8_t*>(row.planes[kCodes]) + first / 8 * bits;
        std::uint8_t codes[kElements];
        for (std::int64_t k = 0; k < count; k += kElements, from += 4 * bits) {
            const std::int64_t g = (first + k) / row.params.group;
            const Real scale = static_cast<Real>(
                f16_to_f32(static_cast<const std::uint16_t*>(row.planes[kScales])[g]));
            const int special = Values::special(id_at(row, g));
            unpack_codes<bits>(from, codes);
            for (int i = 0; i < kElements; ++i) {
                const int value = codes[i] == Values::kSpecial ? special : Values::value(codes[i]);
                out[k + i] = scale * static_cast<Real>(value);
            }
        }
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const PackedRow& row, std::int64_t first,
                                           std::int64_t count, Real* out) {
        if (row.params.bits == 3) return unpack_bits<3>(row, first, count, out);
        unpack_bits<4>(row, first, count, out);
    }
};

}  // namespace thimble
