// SPDX-License-Identifier: Apache-2.0
// The 12 bytes that q4_k and q5_k use for eight 6-bit scales s[0..7] and eight 6-bit minima
// m[0..7].
//
//   byte  0..3    bits 0-5: s[0..3]      bits 6-7: bits 4-5 of s[4..7]
//   byte  4..7    bits 0-5: m[0..3]      bits 6-7: bits 4-5 of m[4..7]
//   byte  8..11   bits 0-3: bits 0-3 of s[4..7]      bits 4-7: bits 0-3 of m[4..7]
#pragma once

#include <cstdint>

#include "kernels/layout/rng.h"  // THIMBLE_HOST_DEVICE

namespace thimble {

struct KScales {
    std::uint8_t scale[8], minimum[8];  // 0..63

    THIMBLE_HOST_DEVICE static int scale_at(const std::uint8_t (&bytes)[12], int g) {
        return g < 4 ? bytes[g] & 63 : (bytes[g + 4] & 15) | (bytes[g - 4] >> 6) << 4;
    }
    THIMBLE_HOST_DEVICE static int minimum_at(const std::uint8_t (&bytes)[12], int g) {
        return g < 4 ? bytes[g + 4] & 63 : (bytes[g + 4] >> 4) | (bytes[g] >> 6) << 4;
    }

    THIMBLE_HOST_DEVICE static KScales unpack(const std::uint8_t (&bytes)[12]) {
        KScales s;
        for (int g = 0; g < 8; ++g) {
            s.scale[g] = static_cast<std::uint8_t>(scale_at(bytes, g));
            s.minimum[g] = static_cast<std::uint8_t>(minimum_at(bytes, g));
        }
        return s;
    }

    THIMBLE_HOST_DEVICE void pack(std::uint8_t (&bytes)[12]) const {
        for (int i = 0; i < 4; ++i) {
            bytes[i] = static_cast<std::uint8_t>(scale[i] | (scale[i + 4] >> 4) << 6);
            bytes[i + 4] = static_cast<std::uint8_t>(minimum[i] | (minimum[i + 4] >> 4) << 6);
            bytes[i + 8] =
                static_cast<std::uint8_t>((scale[i + 4] & 15) | (minimum[i + 4] & 15) << 4);
        }
    }
};

}  // namespace thimble
