// SPDX-License-Identifier: Apache-2.0
// Codes of 1 to 8 bits one after the other, the lowest bit first: 8 codes are whole bytes.
#pragma once

#include <cstdint>

#include "kernels/layout/rng.h"  // THIMBLE_HOST_DEVICE

namespace thimble {

// 32 codes from 4 * bits bytes.
template <int bits>
THIMBLE_HOST_DEVICE inline void unpack_codes(const std::uint8_t* from, std::uint8_t* codes) {
    constexpr int kMask = (1 << bits) - 1;
    if constexpr (8 % bits == 0) {
        constexpr int kPerByte = 8 / bits;
        for (int i = 0; i < 4 * bits; ++i) {
            for (int j = 0; j < kPerByte; ++j)
                codes[kPerByte * i + j] = static_cast<std::uint8_t>(from[i] >> (bits * j) & kMask);
        }
    } else {
        for (int i = 0; i < 4; ++i) {  // 8 codes are `bits` bytes
            std::uint64_t word = 0;
            for (int j = 0; j < bits; ++j)
                word |= static_cast<std::uint64_t>(from[bits * i + j]) << (8 * j);
            for (int j = 0; j < 8; ++j)
                codes[8 * i + j] = static_cast<std::uint8_t>(word >> (bits * j) & kMask);
        }
    }
}
THIMBLE_HOST_DEVICE inline void unpack_codes(int bits, const std::uint8_t* from,
                                             std::uint8_t* codes) {
    switch (bits) {
        case 2:
            return unpack_codes<2>(from, codes);
        case 3:
            return unpack_codes<3>(from, codes);
        case 4:
            return unpack_codes<4>(from, codes);
        case 5:
            return unpack_codes<5>(from, codes);
        case 6:
            return unpack_codes<6>(from, codes);
        case 7:
            return unpack_codes<7>(from, codes);
        default:
            return unpack_codes<8>(from, codes);
    }
}

}  // namespace thimble
