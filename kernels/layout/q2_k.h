// SPDX-License-Identifier: Apache-2.0
// q2_k: 256 weights in sixteen groups of 16 with 4-bit scales and minima, 2-bit codes (2.625 bits
// per weight).
//   w[i] = (d * s[g]) * code[i] - (dmin * m[g])      g = i / 16
//
//   byte  0              16                    80      82         83
//        | scales[0..15] | codes[0] .. codes[63] | d f16 | dmin f16 |
//   scales[g]: low nibble = s[g], high nibble = m[g]
//   bits 2 q, 2 q + 1 of byte 32 h + i of codes, h in 0..1, q in 0..3: code of weight 128 h + 32 q
//   + i
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/layout.h"
#include "kernels/layout/parts.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_q2_k> {
    struct Block {
        std::uint8_t scales[16];
        std::uint8_t codes[64];
        std::uint16_t d, dmin;
    };
    static constexpr int kElements = 256;

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack_part(const Block& block, int part, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d));
        const Real dmin = static_cast<Real>(f16_to_f32(block.dmin));
        const std::uint8_t* codes = block.codes + 32 * (part / 4);
        const int shift = part % 4 * 2;
        for (int half = 0; half < 2; ++half) {
            const int g = 2 * part + half;
            const Real scale = d * static_cast<Real>(block.scales[g] & 15);
            const Real minimum = dmin * static_cast<Real>(block.scales[g] >> 4);
            for (int i = 16 * half; i < 16 * half + 16; ++i)
                out[i] = scale * static_cast<Real>((codes[i] >> shift) & 3) - minimum;
        }
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        unpack_parts<Layout>(block, out);
    }
};
static_assert(sizeof(Layout<LayoutId::k_q2_k>::Block) == 84);

}  // namespace thimble
