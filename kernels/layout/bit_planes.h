// SPDX-License-Identifier: Apache-2.0
// How a row of activations lies in bit planes: plane after plane, each of plane_words(cols) words;
// bit i of word w belongs to column 32 w + i, and what lies past the columns is zero.
#pragma once

#include <cstdint>

namespace thimble {

inline constexpr std::int64_t kPlaneWords = 16;  // words come in so many
inline constexpr std::int64_t plane_words(std::int64_t cols) {
    return (cols / 32 + kPlaneWords - 1) / kPlaneWords * kPlaneWords;
}

// A row's sum of magnitudes is of so many sums, of columns that stand so far apart: 32 neighbours
// are added half to half, the results in order. Every kernel that finds the scale of one bit does
// so.
inline constexpr int kPlaneSums = 256;

}  // namespace thimble
