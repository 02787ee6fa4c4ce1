// SPDX-License-Identifier: Apache-2.0
// q5_k: 256 weights in eight groups of 32 with 6-bit scales and minima, 5-bit codes (5.5 bits per
// weight).
//   w[i] = (d * s[g]) * code[i] - (dmin * m[g])      g = i / 32
//
//   byte  0       2          4                16              48                    175
//        | d f16 | dmin f16 | scales[0..11]  | high[0..31]   | low[0] ....  low[127] |
//   scales: see k_scales.h
//   bit g of high[i] = bit 4 of the code of weight 32 g + i
//   byte 32 p + i of low, p in 0..3: low nibble = bits 0-3 of weight 64 p + i's code, high nibble =
//   of 64 p + 32 + i
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/k_scales.h"
#include "kernels/layout/layout.h"
#include "kernels/layout/parts.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_q5_k> {
    struct Block {
        std::uint16_t d, dmin;
        std::uint8_t scales[12];
        std::uint8_t high[32];
        std::uint8_t low[128];
    };
    static constexpr int kElements = 256;

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack_part(const Block& block, int part, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d));
        const Real dmin = static_cast<Real>(f16_to_f32(block.dmin));
        const Real scale = d * static_cast<Real>(KScales::scale_at(block.scales, part));
        const Real minimum = dmin * static_cast<Real>(KScales::minimum_at(block.scales, part));
        const std::uint8_t* low = block.low + 32 * (part / 2);
        const int shift = 4 * (part % 2);
        for (int i = 0; i < 32; ++i) {
            const int code = ((low[i] >> shift) & 15) | ((block.high[i] >> part) & 1) << 4;
            out[i] = scale * static_cast<Real>(code) - minimum;
        }
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        unpack_parts<Layout>(block, out);
    }
};
static_assert(sizeof(Layout<LayoutId::k_q5_k>::Block) == 176);

}  // namespace thimble
