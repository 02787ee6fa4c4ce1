// SPDX-License-Identifier: Apache-2.0
// The leading part of a singular value decomposition, by subspace iteration from random vectors:
// "Finding Structure with Randomness: Probabilistic Algorithms for Constructing Approximate Matrix
// Decompositions" (2011), algorithms 4.4 and 5.1.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/exec.h"

namespace thimble {

struct LowRankOptions {
    std::int64_t rank = 16;
    std::int64_t oversampling = 8;  // vectors beyond the rank
    int iterations = 3;             // passes there and back
    std::uint64_t seed = 0;
};

// w = a b^T as nearly as a product of this rank can be, in the Frobenius norm; singular values are
// split evenly.
struct LowRankFactors {
    std::vector<float> a;  // [rows, rank]
    std::vector<float> b;  // [cols, rank]
};
// w: [rows, cols] F32 without gaps, rank at most the smaller of them. Results depend on neither
// the number of threads nor their turns. `exec` needs no workspace.
[[nodiscard]] LowRankFactors leading_factors(const Exec& exec, View w,
                                             const LowRankOptions& options);
// What it holds besides w.
[[nodiscard]] std::uint64_t leading_factors_bytes(std::int64_t rows, std::int64_t cols,
                                                  std::int64_t rank);

}  // namespace thimble
