// SPDX-License-Identifier: Apache-2.0
// tq2_0: 256 ternary weights, one f16 scale, two bits each (2.0625 bits per weight).
//   w[i] = d * (code[i] - 1)                         code 0, 1 or 2; 3 stands for 2 d
//
//   byte  0                      64      65
//        | codes[0] .. codes[63] | d f16 |
//   bits 2 q, 2 q + 1 of byte 32 h + i of codes, h in 0..1, q in 0..3: code of weight 128 h + 32 q
//   + i
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/layout.h"
#include "kernels/layout/parts.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_tq2_0> {
    struct Block {
        std::uint8_t codes[64];
        std::uint16_t d;
    };
    static constexpr int kElements = 256;

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack_part(const Block& block, int part, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d));
        const std::uint8_t* codes = block.codes + 32 * (part / 4);
        const int shift = part % 4 * 2;
        for (int i = 0; i < 32; ++i) out[i] = d * static_cast<Real>(((codes[i] >> shift) & 3) - 1);
    }
    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        unpack_parts<Layout>(block, out);
    }
};
static_assert(sizeof(Layout<LayoutId::k_tq2_0>::Block) == 66);

}  // namespace thimble
