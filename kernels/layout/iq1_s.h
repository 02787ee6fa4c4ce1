// SPDX-License-Identifier: Apache-2.0
// iq1_s: 256 weights in eight groups of 32 with 3-bit scales and a shift up or down; points of 8
// weights out of 2048 (1.5625 bits per weight).
//   w[i] = d * (2 s[g] + 1) * (value + shift[g])   g = i / 32; grid and values: see iq.h
//
//   byte  0       2            34                       49
//        | d f16 | low[0..31] | high[0] .. high[7] u16  |
//   number of point v, of weights 8 v .. 8 v + 7: bits 0-7 = low[v], bits 8-10 = bits 3 (v % 4) ..
//   3 (v % 4) + 2 of high[v / 4]
//   s[g]: bits 12-14 of high[g]; shift[g]: bit 15: -1/8, else 1/8
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/iq.h"
#include "kernels/layout/layout.h"
#include "kernels/layout/parts.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_iq1_s> {
    struct Block {
        std::uint16_t d;
        std::uint8_t low[32];
        std::uint16_t high[8];
    };
    static constexpr int kElements = 256;

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack_part(const Block& block, int part, Real* out) {
        const Real eighth = static_cast<Real>(f16_to_f32(block.d)) / 8;
        const int high = block.high[part];
        const Real step = eighth * static_cast<Real>(2 * (high >> 12 & 7) + 1);
        THIMBLE_UNROLL
        for (int v = 0; v < 4; ++v, out += 8)
            unpack_iq1_point(block.low[4 * part + v] | (high >> 3 * v & 7) << 8, high >> 15 != 0,
                             step, out);
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        unpack_parts<Layout>(block, out);
    }
};
static_assert(sizeof(Layout<LayoutId::k_iq1_s>::Block) == 50);

}  // namespace thimble
