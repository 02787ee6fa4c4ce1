// SPDX-License-Identifier: Apache-2.0
// q4_0: the weight of the largest magnitude of each 32 maps to code 0 (that is, -8). Without
// importance byte for byte ggml's reference encoder; with importance the scale is searched.
#pragma once

#include "kernels/encode/blocks32.h"
#include "kernels/layout/q4_0.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

// Of two weights with the largest magnitude the first one gives the sign.
THIMBLE_LANE float signed_peak32(const float* weights) {
    const float peak = largest_magnitude32(weights);
    const Extremes e = extremes(weights, 32);
    if (peak != e.most) return -peak;
    if (peak != -e.least) return peak;
    int at = 0;
    while (at < 31 && weights[at] != peak && weights[at] != -peak) ++at;
    return peak == 0 ? 0.0f : weights[at];
}

THIMBLE_LANE void encode_block(const float* weights, const float* importance,
                               Layout<LayoutId::k_q4_0>::Block& out) {
    if (importance) {
        float w[32];
        importance_or_ones(importance, w, 32);
        out.d = f32_to_f16(search_scale(weights, w, 32, {8, 7}, kOffsets, 2));
        return pack_nibbles(nearest32(weights, f16_to_f32(out.d), 0, -8, 7, 8), out.codes);
    }
    const float d = signed_peak32(weights) / -8.0f;
    out.d = f32_to_f16(d);
    const Lanes inverse = spread(reciprocal(d)), middle = spread(8.5f), most = spread(15.5f);
    pack_nibbles({truncate(min(load(weights) * inverse + middle, most)),
                  truncate(min(load(weights + 16) * inverse + middle, most))},
                 out.codes);
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
