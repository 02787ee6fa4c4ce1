// SPDX-License-Identifier: Apache-2.0
// iq3_s: 256 weights in eight groups of 32 with 4-bit scales; points of 4 weights out of 512, a
// sign bit per weight (3.4375 bits per weight).
//   w[i] = d * (2 s[g] + 1) * sign * value         g = i / 32; grid and values: see iq.h
//
//   byte  0       2            66          74             106            109
//        | d f16 | low[0..63] | high[0..7] | signs[0..31] | scales[0..3] |
//   number of point p, of weights 4 p .. 4 p + 3: bits 0-7 = low[p], bit 8 = bit p % 8 of
//   high[p / 8]
//   bit k of signs[v]: weight 8 v + k is negative
//   s[g]: low nibble (g even) or high nibble (g odd) of scales[g / 2]
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/iq.h"
#include "kernels/layout/layout.h"
#include "kernels/layout/parts.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_iq3_s> {
    struct Block {
        std::uint16_t d;
        std::uint8_t low[64], high[8], signs[32], scales[4];
    };
    static constexpr int kElements = 256;

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack_part(const Block& block, int part, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d));
        const int scale = (block.scales[part / 2] >> (4 * (part % 2))) & 15;
        const Real step = d * static_cast<Real>(2 * scale + 1);
        THIMBLE_UNROLL
        for (int p = 8 * part; p < 8 * part + 8; ++p, out += 4) {
            const int high = (block.high[part] >> (p % 8)) & 1;
            const int signs = block.signs[p / 2] >> (4 * (p % 2));
            unpack_point<Iq3SGrid>(block.low[p] | high << 8, signs, step, out);
        }
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        unpack_parts<Layout>(block, out);
    }
};
static_assert(sizeof(Layout<LayoutId::k_iq3_s>::Block) == 110);

}  // namespace thimble
