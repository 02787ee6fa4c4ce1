// SPDX-License-Identifier: Apache-2.0
// Codes of 32 weights into bytes the way the 32-weight blocks store them.
#pragma once

#include <cstdint>

namespace thimble {

// Bits 0-3: weight i in the low nibble of byte i, weight i + 16 in the high one.
inline void pack_low_bits(const std::uint8_t (&codes)[32], std::uint8_t (&out)[16]) {
    for (int i = 0; i < 16; ++i)
        out[i] = static_cast<std::uint8_t>((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

// Bit 4 of weight i: bit i of four bytes, little endian.
inline void pack_fifth_bits(const std::uint8_t (&codes)[32], std::uint8_t (&out)[4]) {
    for (int b = 0; b < 4; ++b) {
        int bits = 0;
        for (int i = 0; i < 8; ++i) bits |= (codes[8 * b + i] >> 4 & 1) << i;
        out[b] = static_cast<std::uint8_t>(bits);
    }
}

// Codes as whole floats, least `offset` below zero.
inline void to_bytes(const float (&codes)[32], int offset, std::uint8_t (&out)[32]) {
    for (int i = 0; i < 32; ++i)
        out[i] = static_cast<std::uint8_t>(static_cast<int>(codes[i]) + offset);
}

}  // namespace thimble
