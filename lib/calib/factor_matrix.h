// SPDX-License-Identifier: Apache-2.0
// A matrix W [rows, cols] as the product of B [rows, rank] and A [rank, cols] that is nearest to it
// where it is used: |(W - B A) X| is least over all products of that rank, for inputs X whose
// sum x x^T is known. "SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language
// Model Compression" (2025) whitens the inputs, X X^T = L L^T, and cuts the singular values of W L:
//   W L = U S V^T, B = U, A = S V^T L^-1 (of the largest)
// differs: U comes from the eigenvectors of the smaller of W (X X^T) W^T and L^T W^T W L, in
// doubles. Where that is the first, A is U^T W and no factor L is needed. S stands with A, so that
// B's columns are alike in size: formats whose blocks run along B's rows have one scale for them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "format/packed.h"

namespace thimble {

// What counts of the inputs: nothing (all columns alike), mean squares by column as in "ASVD:
// Activation-aware Singular Value Decomposition for Compressing Large Language Models" (2023), or
// all of x x^T.
struct InputNorm {
    std::span<const double> squares;  // [cols]; empty: see gram
    std::span<const float> gram;      // [cols, cols]; both empty: all columns alike
    double damp = 0;                  // times the mean of the diagonal, added to it
};

struct MatrixFactors {
    std::vector<double> energy;  // [min(rows, cols)], falling: what each column of B adds
    std::vector<float> a;        // [most, cols]
    std::vector<float> b;        // [most, rows]: B's columns
};
// The first `rank` rows of both are the best of that rank, up to `most`. Error(kBadData) naming
// `where` when sums or weights are not finite, or sums not positive definite.
[[nodiscard]] MatrixFactors factor_matrix(std::span<const float> weights, Shape2 shape,
                                          const InputNorm& norm, std::int64_t most,
                                          std::string_view where);
// What that takes beside its arguments, the result included.
[[nodiscard]] std::uint64_t factor_matrix_bytes(Shape2 shape, std::int64_t most);

}  // namespace thimble
