// SPDX-License-Identifier: Apache-2.0
// What the blocks of 32 weights share: plain absmax and min-max rounding, packing of codes.
#pragma once

#include "kernels/encode/search.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

struct Codes32 {  // weights 0-15 and 16-31
    IntLanes low, high;
};

// Low nibble of byte i: bits 0-3 of weight i; high nibble: of weight i + 16.
THIMBLE_LANE void pack_nibbles(const Codes32& codes, std::uint8_t (&out)[16]) {
    const IntLanes nibble = spread_bits(15);
    store_bytes(out, (codes.low & nibble) | shifted_left(codes.high & nibble, 4));
}
// Bit 4 of weight i: bit i of four bytes, little endian.
THIMBLE_LANE void pack_fifth_bits(const Codes32& codes, std::uint8_t (&out)[4]) {
    std::uint8_t bytes[32];
    store_bytes(bytes, codes.low);
    store_bytes(bytes + 16, codes.high);
    for (int b = 0; b < 4; ++b) {
        int bits = 0;
        for (int i = 0; i < 8; ++i) bits |= (bytes[8 * b + i] >> 4 & 1) << i;
        out[b] = static_cast<std::uint8_t>(bits);
    }
}

// Nearest codes for a scale and minimum, plus `offset`.
THIMBLE_LANE Codes32 nearest32(const float* weights, float scale, float minimum, int least,
                               int most, int offset) {
    float codes[32];
    nearest_codes(weights, 32, scale, minimum, least, most, codes);
    const Lanes shift = spread(static_cast<float>(offset));
    return {truncate(load(codes) + shift), truncate(load(codes + 16) + shift)};
}

// A reciprocal, 0 where the scale is too small to have one (a half holds 0 there anyway).
THIMBLE_LANE float reciprocal(float d) { return d > 0x1p-126f || d < -0x1p-126f ? 1.0f / d : 0.0f; }

THIMBLE_LANE float largest_magnitude32(const float* weights) {
    return greatest_lane(max(magnitude(load(weights)), magnitude(load(weights + 16))));
}
// The first of the weights that equal `value`: zeros may differ in sign.
THIMBLE_LANE float first_equal32(const float* weights, float value) {
    int at = 0;
    while (value == 0 && at < 31 && weights[at] != 0) ++at;
    return value == 0 ? weights[at] : value;
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
