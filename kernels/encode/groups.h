// SPDX-License-Identifier: Apache-2.0
// The searches of formats of groups, by layout.
#pragma once

#include "kernels/encode/affine.h"
#include "kernels/encode/bipolar.h"
#include "kernels/encode/bitmod.h"
#include "kernels/encode/nvfp4.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

static inline void search_scales(ScaleSearch& fit) {
    switch (fit.layout) {
        case LayoutId::k_affine:
            return fit_affine(fit);
        case LayoutId::k_bipolar:
            return fit_bipolar(fit);
        case LayoutId::k_bitmod:
            return fit_bitmod(fit);
        case LayoutId::k_nvfp4:
            return fit_nvfp4(fit);
        default:
            return;
    }
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
