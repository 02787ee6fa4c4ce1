// SPDX-License-Identifier: Apache-2.0
// iq4_xs: 256 weights in eight groups of 32 with signed 6-bit scales, 4-bit codes through a table
// (4.25 bits per weight).
//   w[i] = (d * (s[g] - 32)) * table[code[i]]        g = i / 32; table: see iq4.h
//
//   byte  0       2              4               8                             135
//        | d f16 | high u16     | low[0..3]     | codes[0] .........  codes[127] |
//   s[g]: bits 0-3 = low nibble (g even) or high nibble (g odd) of low[g / 2]
//         bits 4-5 = bits 2 g, 2 g + 1 of high
//   byte 16 g + i of codes, i in 0..15: low nibble = code of weight 32 g + i, high nibble = of 32 g
//   + 16 + i
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/iq4.h"
#include "kernels/layout/layout.h"
#include "kernels/layout/parts.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_iq4_xs> {
    struct Block {
        std::uint16_t d, high;
        std::uint8_t low[4];
        std::uint8_t codes[128];
    };
    static constexpr int kElements = 256;

    // -32..31
    THIMBLE_HOST_DEVICE static int scale(const Block& block, int g) {
        const int low = (block.low[g / 2] >> (4 * (g % 2))) & 15;
        return (low | ((block.high >> (2 * g)) & 3) << 4) - 32;
    }
    THIMBLE_HOST_DEVICE static void set_scale(Block& block, int g, int scale) {
        const int s = scale + 32, shift = 4 * (g % 2);
        std::uint8_t& low = block.low[g / 2];
        low = static_cast<std::uint8_t>((low & ~(15 << shift)) | (s & 15) << shift);
        block.high =
            static_cast<std::uint16_t>((block.high & ~(3 << (2 * g))) | (s >> 4) << (2 * g));
    }

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack_part(const Block& block, int part, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d));
        const Real step = d * static_cast<Real>(scale(block, part));
        for (int i = 0; i < 16; ++i) {
            const int both = block.codes[16 * part + i];
            out[i] = step * static_cast<Real>(Iq4::value(both & 15));
            out[16 + i] = step * static_cast<Real>(Iq4::value(both >> 4));
        }
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        unpack_parts<Layout>(block, out);
    }
};
static_assert(sizeof(Layout<LayoutId::k_iq4_xs>::Block) == 136);

}  // namespace thimble
