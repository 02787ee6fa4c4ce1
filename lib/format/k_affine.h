// SPDX-License-Identifier: Apache-2.0
// The encoder that q4_k and q5_k share: eight groups of 32 weights, each with a 6-bit scale and
// minimum in units of the block's d and dmin.
#pragma once

#include <cstdint>

#include "kernels/layout/k_scales.h"

namespace thimble {

struct KAffineBlock {
    std::uint16_t d, dmin;  // halves
    KScales scales;
    std::uint8_t codes[256];  // 0..top
};

// importance: null or one value per weight.
void encode_k_affine(const float* weights, const float* importance, int top, KAffineBlock& out);

}  // namespace thimble
