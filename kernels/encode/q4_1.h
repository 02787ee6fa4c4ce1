// SPDX-License-Identifier: Apache-2.0
// q4_1: the least of each 32 weights maps to code 0, the greatest to 15. Without importance byte
// for byte ggml's reference encoder; with importance scale and minimum are searched.
#pragma once

#include "kernels/encode/blocks32.h"
#include "kernels/layout/q4_1.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

THIMBLE_LANE void encode_block(const float* weights, const float* importance,
                               Layout<LayoutId::k_q4_1>::Block& out) {
    if (importance) {
        float w[32];
        importance_or_ones(importance, w, 32);
        const ScaleMinimum fit = search_scale_minimum(weights, w, 32, 15, false, kOffsets, 2);
        out.d = f32_to_f16(fit.scale);
        out.m = f32_to_f16(fit.minimum);
        return pack_nibbles(nearest32(weights, f16_to_f32(out.d), f16_to_f32(out.m), 0, 15, 0),
                            out.codes);
    }
    const Extremes e = extremes(weights, 32);
    const float least = first_equal32(weights, e.least), most = first_equal32(weights, e.most);
    const float d = (most - least) / 15.0f;
    out.d = f32_to_f16(d);
    out.m = f32_to_f16(least);
    const Lanes inverse = spread(reciprocal(d)), zero = spread(least), half = spread(0.5f);
    const Lanes top = spread(15.5f);
    pack_nibbles({truncate(min((load(weights) - zero) * inverse + half, top)),
                  truncate(min((load(weights + 16) - zero) * inverse + half, top))},
                 out.codes);
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
