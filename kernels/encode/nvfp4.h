// SPDX-License-Identifier: Apache-2.0
// nvfp4: of some E4M3 scales that of least (weighted) squared error of 16 weights.
#pragma once

#include "kernels/encode/mxfp4.h"
#include "kernels/encode/scale_search.h"
#include "kernels/layout/e4m3.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

// `id` is a scale to beat; those from first_id to end_id may.
static inline void fit_nvfp4(ScaleSearch& fit) {
    const Lanes size = magnitude(load(fit.weights)), importance = load(fit.importance);
    const auto error = [&](int code) {
        const Lanes step = spread(e4m3_to_f32(static_cast<std::uint8_t>(code)) * fit.unit);
        const Lanes missed = size - nearest_e2m1(size / step) * step;
        return sum(importance * missed * missed);
    };
    float least = error(fit.id);
    for (int code = fit.first_id; code < fit.end_id; ++code) {
        const float left = error(code);
        if (left < least) fit.id = code, least = left;
    }
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
