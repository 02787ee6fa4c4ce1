// SPDX-License-Identifier: Apache-2.0
// q8_0: 32 weights, one f16 scale, signed 8-bit codes (8.5 bits per weight).
//   w[i] = d * code[i]
//
//   byte  0       2                              33
//        | d f16 | codes[0] ..........  codes[31] |
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/layout.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_q8_0> {
    struct Block {
        std::uint16_t d;
        std::int8_t codes[32];
    };
    static constexpr int kElements = 32;

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d));
        for (int i = 0; i < 32; ++i) out[i] = d * static_cast<Real>(block.codes[i]);
    }
};
static_assert(sizeof(Layout<LayoutId::k_q8_0>::Block) == 34);

}  // namespace thimble
