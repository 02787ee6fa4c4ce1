// SPDX-License-Identifier: Apache-2.0
// iq2_xs: 256 weights in sixteen groups of 16 with 4-bit scales; points of 8 weights out of 512,
// 7 bits of signs each (2.3125 bits per weight).
//   w[i] = d * (2 s[g] + 1) / 8 * sign * value     g = i / 16; grid and values: see iq.h
//
//   byte  0       2                          66                    73
//        | d f16 | points[0] .. points[31]  | scales[0..7]         |
//   points[v], of weights 8 v .. 8 v + 7: bits 0-8 = number, bits 9-15 = signs
//   s[g]: low nibble (g even) or high nibble (g odd) of scales[g / 2]
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/iq.h"
#include "kernels/layout/layout.h"
#include "kernels/layout/parts.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_iq2_xs> {
    struct Block {
        std::uint16_t d, points[32];
        std::uint8_t scales[8];
    };
    static constexpr int kElements = 256;

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack_part(const Block& block, int part, Real* out) {
        const Real eighth = static_cast<Real>(f16_to_f32(block.d)) / 8;
        THIMBLE_UNROLL
        for (int g = 2 * part; g < 2 * part + 2; ++g) {
            const int scale = (block.scales[g / 2] >> (4 * (g % 2))) & 15;
            const Real step = eighth * static_cast<Real>(2 * scale + 1);
            THIMBLE_UNROLL
            for (int v = 2 * g; v < 2 * g + 2; ++v, out += 8)
                unpack_point<Iq2XsGrid>(block.points[v] & 511, even_signs(block.points[v] >> 9),
                                        step, out);
        }
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        unpack_parts<Layout>(block, out);
    }
};
static_assert(sizeof(Layout<LayoutId::k_iq2_xs>::Block) == 74);

}  // namespace thimble
