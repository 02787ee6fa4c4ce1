// SPDX-License-Identifier: Apache-2.0
// bf16: the upper half of an IEEE single, little endian.
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/layout.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_bf16> {
    struct Block {
        std::uint16_t bits;
    };
    static constexpr int kElements = 1;

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        out[0] = static_cast<Real>(bf16_to_f32(block.bits));
    }
};
static_assert(sizeof(Layout<LayoutId::k_bf16>::Block) == 2);

}  // namespace thimble
