// SPDX-License-Identifier: Apache-2.0
// affine: scale, and minimum unless the codes are symmetric, of least (weighted) squared error.
#pragma once

#include "kernels/encode/scale_search.h"
#include "kernels/encode/search.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

static inline void fit_affine(ScaleSearch& fit) {
    const int top = (1 << fit.bits) - 1, middle = (top + 1) / 2;
    if (fit.symmetric) {
        fit.scale =
            search_scale(fit.weights, fit.importance, fit.n, {middle, middle - 1}, kOffsets, 3);
        return;
    }
    const ScaleMinimum found =
        search_scale_minimum(fit.weights, fit.importance, fit.n, top, true, kOffsets, 3);
    fit.scale = found.scale, fit.minimum = found.minimum;
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
