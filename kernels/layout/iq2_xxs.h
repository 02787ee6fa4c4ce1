// SPDX-License-Identifier: Apache-2.0
// iq2_xxs: 256 weights in eight groups of 32 with 4-bit scales; points of 8 weights out of 256,
// 7 bits of signs each (2.0625 bits per weight).
//   w[i] = d * (2 s[g] + 1) / 8 * sign * value     g = i / 32; grid and values: see iq.h
//
//   byte  0       2           10                    65
//        | d f16 | group 0   | ... | group 7        |
//   group: bytes 0-3 = numbers of the points of weights 0-7, 8-15, 16-23, 24-31
//          bytes 4-7, little endian: bits 7 v .. 7 v + 6 = signs of point v, bits 28-31 = s[g]
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/iq.h"
#include "kernels/layout/layout.h"
#include "kernels/layout/parts.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_iq2_xxs> {
    struct Group {
        std::uint8_t points[4], signs_scale[4];
    };
    struct Block {
        std::uint16_t d;
        Group groups[8];
    };
    static constexpr int kElements = 256;

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack_part(const Block& block, int part, Real* out) {
        const Real eighth = static_cast<Real>(f16_to_f32(block.d)) / 8;
        const Group& group = block.groups[part];
        const std::uint32_t word = load_u32(group.signs_scale);
        const Real step = eighth * static_cast<Real>(2 * static_cast<int>(word >> 28) + 1);
        THIMBLE_UNROLL
        for (int v = 0; v < 4; ++v, out += 8)
            unpack_point<Iq2XxsGrid>(group.points[v], even_signs(word >> 7 * v & 127), step, out);
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        unpack_parts<Layout>(block, out);
    }
};
static_assert(sizeof(Layout<LayoutId::k_iq2_xxs>::Block) == 66);

}  // namespace thimble
