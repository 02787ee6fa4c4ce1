// SPDX-License-Identifier: Apache-2.0
// Problems for the tests of matrix kernels, held to out = x W^T in double by the bound that a sum
// in float keeps.
#pragma once

#include "packed.h"

namespace thimble::cuda_test {

struct MatmulCase {
    PackedForm form;
    std::int64_t rows, cols, tokens;
    std::int64_t x_gap = 0, out_gap = 0;  // elements between rows
    bool bias = false, accumulate = false;
    double rounding = 0;  // relative, of the factors as the kernel takes them
};
using MatmulKernel = std::function<void(const cuda::Matmul&, cuda::Stream&)>;

// Runs `kernel` in all orders; what it wrote is near double, what lies between the rows of `out` is
// as it was. Returns out. `taken` is what the kernel takes for x, [tokens, cols], once it has run;
// null: x.
std::vector<float> check_matmul_case(const MatmulCase& problem, const MatmulKernel& kernel,
                                     const std::vector<float>* taken = nullptr);

// The same for 1 to 8 tokens, and that a token's bits do not depend on the others.
void check_tokens(const PackedForm& form, std::int64_t rows, std::int64_t cols, std::int64_t x_gap,
                  const MatmulKernel& kernel, const std::vector<float>* taken = nullptr);

}  // namespace thimble::cuda_test
