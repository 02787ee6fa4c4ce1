// SPDX-License-Identifier: Apache-2.0
// q3_k: 256 weights in sixteen groups of 16 with signed 6-bit scales, 3-bit codes with fixed offset
// 4 (3.4375 bits per weight).
//   w[i] = (d * (s[g] - 32)) * (code[i] - 4)         g = i / 16
//
//   byte  0             32                     96              108   109
//        | high[0..31] | low[0] ....  low[63] | scales[0..11] | d f16 |
//   bit 4 h + q of high[i] = bit 2 of the code of weight 128 h + 32 q + i, h in 0..1, q in 0..3
//   bits 2 q, 2 q + 1 of low[32 h + i] = its bits 0-1
//   s[g]: bits 0-3 = low nibble of scales[g] (g < 8) or high nibble of scales[g - 8]
//         bits 4-5 = bits 2 (g / 4), 2 (g / 4) + 1 of scales[8 + g % 4]
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/layout.h"
#include "kernels/layout/parts.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_q3_k> {
    struct Block {
        std::uint8_t high[32];
        std::uint8_t low[64];
        std::uint8_t scales[12];
        std::uint16_t d;
    };
    static constexpr int kElements = 256;

    // -32..31
    THIMBLE_HOST_DEVICE static int scale(const Block& block, int g) {
        const int low = (block.scales[g % 8] >> (g / 8 * 4)) & 15;
        return (low | ((block.scales[8 + g % 4] >> (g / 4 * 2)) & 3) << 4) - 32;
    }
    THIMBLE_HOST_DEVICE static void set_scale(Block& block, int g, int scale) {
        const int s = scale + 32, low_shift = g / 8 * 4, high_shift = g / 4 * 2;
        std::uint8_t& low = block.scales[g % 8];
        low = static_cast<std::uint8_t>((low & ~(15 << low_shift)) | (s & 15) << low_shift);
        std::uint8_t& high = block.scales[8 + g % 4];
        high = static_cast<std::uint8_t>((high & ~(3 << high_shift)) | (s >> 4) << high_shift);
    }

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack_part(const Block& block, int part, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d));
        const std::uint8_t* codes = block.low + 32 * (part / 4);
        const int shift = part % 4 * 2;
        for (int half = 0; half < 2; ++half) {
            const Real step = d * static_cast<Real>(scale(block, 2 * part + half));
            for (int i = 16 * half; i < 16 * half + 16; ++i) {
                const int low = (codes[i] >> shift) & 3;
                const int code = low | ((block.high[i] >> part) & 1) << 2;
                out[i] = step * static_cast<Real>(code - 4);
            }
        }
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        unpack_parts<Layout>(block, out);
    }
};
static_assert(sizeof(Layout<LayoutId::k_q3_k>::Block) == 110);

}  // namespace thimble
