// SPDX-License-Identifier: Apache-2.0
// Problems for the tests of products of bit planes.
#pragma once

#include "harness.h"

namespace thimble::cuda_test {

struct PlanesCase {
    int bits, x_bits;
    std::int64_t rows, cols, group, tokens;
    std::int64_t out_gap = 0;  // elements between rows
    bool bias = false, accumulate = false;
};
using PlanesKernel = std::function<void(const cuda::MatmulPlanes&, cuda::Stream&)>;

// All scales are 1 and sums below 2^24: what comes out is the integer product of the codes, whose
// values are taken bit by bit, and so it is at any number of tokens.
void check_whole_numbers(const PlanesCase& problem, const PlanesKernel& kernel);
// The 64 pairs of widths, `tokens` at once.
void check_widths(std::int64_t tokens, const PlanesKernel& kernel);
// With scales: near double, and as near to the CPU's kernel. Returns out.
std::vector<float> check_scaled(const PlanesCase& problem, const PlanesKernel& kernel);

}  // namespace thimble::cuda_test
