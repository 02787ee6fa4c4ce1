// SPDX-License-Identifier: Apache-2.0
// f64: plain IEEE double precision, little endian.
#pragma once

#include "kernels/layout/half.h"
#include "kernels/layout/layout.h"

namespace thimble {

template <>
struct Layout<LayoutId::k_f64> {
    struct Block {
        double value;
    };
    static constexpr int kElements = 1;

    template <class Real>
    THIMBLE_HOST_DEVICE static void unpack(const Block& block, Real* out) {
        out[0] = static_cast<Real>(block.value);
    }
};
static_assert(sizeof(Layout<LayoutId::k_f64>::Block) == 8);

}  // namespace thimble
