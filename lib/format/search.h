// SPDX-License-Identifier: Apache-2.0
// Scale searches shared by the encoders: for one group of weights, the scale (and minimum) whose
// nearest codes leave the least weighted squared error. Each tries a ladder of scales, solves the
// least-squares scale for the codes that each rung gives, and refines the best by alternating
// codes and solution.
#pragma once

#include <cstdint>

namespace thimble {

// Importance of the group's weights where none is given. All values 1: plain squared error.
void importance_or_ones(const float* importance, float* out, int n);

// w ~ scale * code, code in [-negative, positive] with negative >= positive.
struct SymmetricRange {
    int negative, positive;
};
// n is a multiple of 4, at most 32. Returns 0 when all weights are zero.
float search_scale(const float* weights, const float* importance, int n, SymmetricRange range);

// w ~ scale * code + minimum, code in [0, top], minimum <= 0 if `offset_down` (K types store -m).
struct ScaleMinimum {
    float scale = 0, minimum = 0;
};
ScaleMinimum search_scale_minimum(const float* weights, const float* importance, int n, int top,
                                  bool offset_down);

// Nearest codes for fixed scale and minimum, and the weighted squared error they leave.
float assign_codes(const float* weights, const float* importance, int n, float scale, float minimum,
                   int least, int most, float* codes);

}  // namespace thimble
