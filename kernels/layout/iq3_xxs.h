// SPDX-License-Identifier: Apache-2.0
// iq3_xxs: 256 weights in eight groups of 32 with 4-bit scales; points of 4 weights out of 256, 7
// bits of signs for 8 weights (3.0625 bits per weight).
//   w[i] = d * (2 s[g] + 1) / 4 * sign * value     g = i / 32; grid and values: see iq.h
//
//   byte  0       2                          66                        97
//        | d f16 | points[0] .. points[63]  | signs_scales[0] .. [7]   |
//   points[p]: number of the point of weights 4 p .. 4 p + 3
//   signs_scales[g], 4 bytes, little endian: bits 7 v .. 7 v + 6 = signs of weights 32 g + 8 v ..
//   + 7, bits 28-31 = s[g]
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/iq.h"
#include "kernels/layout/layout.h"
#include "kernels/layout/parts.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_iq3_xxs> {
    struct Block {
        std::uint16_t d;
        std::uint8_t points[64], signs_scales[8][4];
    };
    static constexpr int kElements = 256;

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack_part(const Block& block, int part, Real* out) {
        const Real quarter = static_cast<Real>(f16_to_f32(block.d)) / 4;
        const std::uint32_t word = load_u32(block.signs_scales[part]);
        const Real step = quarter * static_cast<Real>(2 * static_cast<int>(word >> 28) + 1);
        THIMBLE_UNROLL
        for (int v = 0; v < 4; ++v, out += 8) {
            const std::uint8_t* points = block.points + 8 * part + 2 * v;
            const int signs = even_signs(word >> 7 * v & 127);
            unpack_point<Iq3XxsGrid>(points[0], signs, step, out);
            unpack_point<Iq3XxsGrid>(points[1], signs >> 4, step, out + 4);
        }
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        unpack_parts<Layout>(block, out);
    }
};
static_assert(sizeof(Layout<LayoutId::k_iq3_xxs>::Block) == 98);

}  // namespace thimble
