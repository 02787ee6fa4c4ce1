// SPDX-License-Identifier: Apache-2.0
// q5_1: searched scale and minimum per 32 weights, codes 0..31.
// differs: ggml's encoder without importance maps least and greatest to 0 and 31.
#pragma once

#include "kernels/encode/blocks32.h"
#include "kernels/layout/q5_1.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

THIMBLE_LANE void encode_block(const float* weights, const float* importance,
                               Layout<LayoutId::k_q5_1>::Block& out) {
    float w[32];
    importance_or_ones(importance, w, 32);
    const ScaleMinimum fit = search_scale_minimum(weights, w, 32, 31, false, kOffsets, 2);
    out.d = f32_to_f16(fit.scale);
    out.m = f32_to_f16(fit.minimum);
    const Codes32 codes = nearest32(weights, f16_to_f32(out.d), f16_to_f32(out.m), 0, 31, 0);
    pack_nibbles(codes, out.low);
    pack_fifth_bits(codes, out.high);
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
