// SPDX-License-Identifier: Apache-2.0
// q5_0: searched scale per 32 weights, codes -16..15.
// differs: ggml's encoder without importance maps the peak to -16.
#pragma once

#include "kernels/encode/blocks32.h"
#include "kernels/layout/q5_0.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

THIMBLE_LANE void encode_block(const float* weights, const float* importance,
                               Layout<LayoutId::k_q5_0>::Block& out) {
    float w[32];
    importance_or_ones(importance, w, 32);
    out.d = f32_to_f16(search_scale(weights, w, 32, {16, 15}, kOffsets, importance ? 2 : 1));
    const Codes32 codes = nearest32(weights, f16_to_f32(out.d), 0, -16, 15, 16);
    pack_nibbles(codes, out.low);
    pack_fifth_bits(codes, out.high);
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
