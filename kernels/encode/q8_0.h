// SPDX-License-Identifier: Apache-2.0
// q8_0: the largest magnitude of each 32 weights maps to code 127. Byte for byte ggml's reference
// encoder, which rounds codes to nearest with ties away from zero.
#pragma once

#include "kernels/encode/blocks32.h"
#include "kernels/layout/q8_0.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

// Nearest integer, ties away from zero, for |v| < 2^22. Adding the float just below one half and
// truncating is exact: with one half itself, 0.49999997 would become 1.
THIMBLE_LANE IntLanes round_away(Lanes v) {
    const IntLanes sign = bits(v) & spread_bits(0x80000000u);
    return truncate(v + from_bits(sign | bits(spread(0x1.fffffep-2f))));
}

THIMBLE_LANE void encode_block(const float* weights, const float*,
                               Layout<LayoutId::k_q8_0>::Block& out) {
    const float d = largest_magnitude32(weights) / 127.0f;
    out.d = f32_to_f16(d);
    const Lanes inverse = spread(reciprocal(d));
    std::uint8_t codes[32];
    store_bytes(codes, round_away(load(weights) * inverse));
    store_bytes(codes + 16, round_away(load(weights + 16) * inverse));
    __builtin_memcpy(out.codes, codes, sizeof codes);
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
