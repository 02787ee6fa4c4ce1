// SPDX-License-Identifier: Apache-2.0
// q6_k: 256 weights in sixteen groups of 16 with signed 8-bit scales, 6-bit codes with fixed offset
// 32 (6.5625 bits per weight).
//   w[i] = (d * scale[i / 16]) * (code[i] - 32)
//
//   byte  0                      128                    192                208     209
//        | low[0] ....  low[127] | high[0] ...  high[63] | scales[0..15] i8 | d f16 |
//   For half h in 0..1, quarter q in 0..3, i in 0..31, weight 128 h + 32 q + i:
//   bits 0-3: low[64 h + 32 (q % 2) + i], low nibble if q < 2, else high nibble
//   bits 4-5: bits 2 q, 2 q + 1 of high[32 h + i]
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/layout.h"
#include "kernels/layout/parts.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_q6_k> {
    struct Block {
        std::uint8_t low[128];
        std::uint8_t high[64];
        std::int8_t scales[16];
        std::uint16_t d;
    };
    static constexpr int kElements = 256;

    THIMBLE_HOST_DEVICE static int scale(const Block& block, int g) { return block.scales[g]; }
    THIMBLE_HOST_DEVICE static void set_scale(Block& block, int g, int scale) {
        block.scales[g] = static_cast<std::int8_t>(scale);
    }

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack_part(const Block& block, int part, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d));
        const int h = part / 4, q = part % 4, shift = q < 2 ? 0 : 4;
        const std::uint8_t* low = block.low + 64 * h + 32 * (q % 2);
        const std::uint8_t* high = block.high + 32 * h;
        const Real scale0 = d * static_cast<Real>(block.scales[2 * part]);
        const Real scale1 = d * static_cast<Real>(block.scales[2 * part + 1]);
        for (int i = 0; i < 32; ++i) {
            const int code = ((low[i] >> shift) & 15) | ((high[i] >> (2 * q)) & 3) << 4;
            out[i] = (i < 16 ? scale0 : scale1) * static_cast<Real>(code - 32);
        }
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        unpack_parts<Layout>(block, out);
    }
};
static_assert(sizeof(Layout<LayoutId::k_q6_k>::Block) == 210);

}  // namespace thimble
