// SPDX-License-Identifier: Apache-2.0
// iq1_m: 256 weights in sixteen groups of 16 with 3-bit scales; points of 8 weights out of 2048,
// each with a shift up or down of its own (1.75 bits per weight).
//   w[i] = d * (2 s[g] + 1) * (value + shift[v])   g = i / 16, v = i / 8; grid, values: see iq.h
//
//   byte  0            32            48                          55
//        | low[0..31] | high[0..15] | scales[0] .. scales[3] u16 |
//   number of point v, of weights 8 v .. 8 v + 7: bits 0-7 = low[v], bits 8-10 = bits 0-2 of nibble
//   v % 2 of high[v / 2]; shift[v]: bit 3 of that nibble: -1/8, else 1/8
//   s[g]: bits 3 (g % 4) .. 3 (g % 4) + 2 of scales[g / 4]
//   d f16: its nibble n, lowest first, is bits 12-15 of scales[n]
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/iq.h"
#include "kernels/layout/layout.h"
#include "kernels/layout/parts.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_iq1_m> {
    struct Block {
        std::uint8_t low[32], high[16];
        std::uint16_t scales[4];
    };
    static constexpr int kElements = 256;

    THIMBLE_HOST_DEVICE static std::uint16_t d(const Block& block) {
        int bits = 0;
        for (int n = 0; n < 4; ++n) bits |= block.scales[n] >> 12 << (4 * n);
        return static_cast<std::uint16_t>(bits);
    }

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack_part(const Block& block, int part, Real* out) {
        const Real eighth = static_cast<Real>(f16_to_f32(d(block))) / 8;
        THIMBLE_UNROLL
        for (int g = 2 * part; g < 2 * part + 2; ++g) {
            const int scale = block.scales[g / 4] >> (3 * (g % 4)) & 7;
            const Real step = eighth * static_cast<Real>(2 * scale + 1);
            THIMBLE_UNROLL
            for (int v = 2 * g; v < 2 * g + 2; ++v, out += 8) {
                const int high = block.high[g] >> (4 * (v % 2)) & 15;
                unpack_iq1_point(block.low[v] | (high & 7) << 8, high >> 3 != 0, step, out);
            }
        }
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        unpack_parts<Layout>(block, out);
    }
};
static_assert(sizeof(Layout<LayoutId::k_iq1_m>::Block) == 56);

}  // namespace thimble
