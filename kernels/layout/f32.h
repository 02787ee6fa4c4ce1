// SPDX-License-Identifier: Apache-2.0
// f32: plain IEEE single precision, little endian.
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/layout.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_f32> {
    struct Block {
        float value;
    };
    static constexpr int kElements = 1;

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        out[0] = static_cast<Real>(block.value);
    }
};
static_assert(sizeof(Layout<LayoutId::k_f32>::Block) == 4);

}  // namespace thimble
