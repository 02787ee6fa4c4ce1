// SPDX-License-Identifier: Apache-2.0
// iq4_nl: 32 weights, one f16 scale, 4-bit codes through a table (4.5 bits per weight).
//   w[i] = d * table[code[i]]                    table: see iq4.h
//
//   byte  0      2                              17
//        | d f16 | codes[0] ..........  codes[15] |
//   byte i of codes: low nibble = code of weight i, high nibble = code of weight i + 16
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/iq4.h"
#include "kernels/layout/layout.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_iq4_nl> {
    struct Block {
        std::uint16_t d;
        std::uint8_t codes[16];
    };
    static constexpr int kElements = 32;

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d));
        for (int i = 0; i < 16; ++i) {
            out[i] = d * static_cast<Real>(Iq4::value(block.codes[i] & 15));
            out[i + 16] = d * static_cast<Real>(Iq4::value(block.codes[i] >> 4));
        }
    }
};
static_assert(sizeof(Layout<LayoutId::k_iq4_nl>::Block) == 18);

}  // namespace thimble
