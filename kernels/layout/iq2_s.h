// SPDX-License-Identifier: Apache-2.0
// iq2_s: 256 weights in sixteen groups of 16 with 4-bit scales; points of 8 weights out of 1024, a
// sign bit per weight (2.5625 bits per weight).
//   w[i] = d * (2 s[g] + 1) / 8 * sign * value     g = i / 16; grid and values: see iq.h
//
//   byte  0       2            34             66          74             81
//        | d f16 | low[0..31] | signs[0..31] | high[0..7] | scales[0..7] |
//   number of point v, of weights 8 v .. 8 v + 7: bits 0-7 = low[v], bits 8-9 = bits 2 (v % 4),
//   2 (v % 4) + 1 of high[v / 4]
//   s[g]: low nibble (g even) or high nibble (g odd) of scales[g / 2]
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/iq.h"
#include "kernels/layout/layout.h"
#include "kernels/layout/parts.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_iq2_s> {
    struct Block {
        std::uint16_t d;
        std::uint8_t low[32], signs[32], high[8], scales[8];
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
            for (int v = 2 * g; v < 2 * g + 2; ++v, out += 8) {
                const int high = (block.high[v / 4] >> (2 * (v % 4))) & 3;
                unpack_point<Iq2SGrid>(block.low[v] | high << 8, block.signs[v], step, out);
            }
        }
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        unpack_parts<Layout>(block, out);
    }
};
static_assert(sizeof(Layout<LayoutId::k_iq2_s>::Block) == 82);

}  // namespace thimble
