// SPDX-License-Identifier: Apache-2.0
// q4_k: 256 weights in eight groups of 32 with 6-bit scales and minima, 4-bit codes (4.5 bits per
// weight).
//   w[i] = (d * s[g]) * code[i] - (dmin * m[g])      g = i / 32
//
//   byte  0       2          4                16                        143
//        | d f16 | dmin f16 | scales[0..11]  | codes[0] ....  codes[127] |
//   scales: see k_scales.h
//   byte 32 p + i of codes, p in 0..3: low nibble = code of weight 64 p + i, high nibble = of 64 p
//   + 32 + i
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/k_scales.h"
#include "kernels/layout/layout.h"
#include "kernels/layout/parts.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_q4_k> {
    struct Block {
        std::uint16_t d, dmin;
        std::uint8_t scales[12];
        std::uint8_t codes[128];
    };
    static constexpr int kElements = 256;

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack_part(const Block& block, int part, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d));
        const Real dmin = static_cast<Real>(f16_to_f32(block.dmin));
        const Real scale = d * static_cast<Real>(KScales::scale_at(block.scales, part));
        const Real minimum = dmin * static_cast<Real>(KScales::minimum_at(block.scales, part));
        const std::uint8_t* codes = block.codes + 32 * (part / 2);
        const int shift = 4 * (part % 2);
        for (int i = 0; i < 32; ++i)
            out[i] = scale * static_cast<Real>((codes[i] >> shift) & 15) - minimum;
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        unpack_parts<Layout>(block, out);
    }
};
static_assert(sizeof(Layout<LayoutId::k_q4_k>::Block) == 144);

}  // namespace thimble
