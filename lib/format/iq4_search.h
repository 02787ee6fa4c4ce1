// SPDX-License-Identifier: Apache-2.0
// What iq4_nl and iq4_xs share: w ~ scale * value, value one of the sixteen of Iq4.
#pragma once

#include <cstdint>

namespace thimble {

// The scale, of either sign, whose nearest values leave the least weighted squared error. Group of
// 32 weights. Returns 0 when all are zero.
float search_iq4_scale(const float* weights, const float* importance);

// Nearest values for a fixed scale, and the weighted squared error they leave.
float assign_iq4(const float* weights, const float* importance, float scale, float* values);

// Codes of values that assign_iq4 gave.
void iq4_codes(const float* values, std::uint8_t (&codes)[32]);

}  // namespace thimble
