// SPDX-License-Identifier: Apache-2.0
// The encoder that tq1_0 and tq2_0 share: 256 weights, w ~ d * code with code -1, 0 or 1.
#pragma once

#include <cstdint>

namespace thimble {

struct TernaryBlock {
    std::uint16_t d;           // a half
    std::uint8_t digits[256];  // code + 1
};

// The least (weighted) squared error that any d and codes leave, but for the rounding of d.
// importance: null or one value per weight.
void encode_ternary(const float* weights, const float* importance, TernaryBlock& out);

}  // namespace thimble
