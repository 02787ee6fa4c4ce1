// SPDX-License-Identifier: Apache-2.0
// Eigenvalues of symmetric matrices, by Eigen's solver, in double precision on one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace thimble {

// matrix: [n, n], symmetric; becomes the unit eigenvectors as rows, by falling eigenvalue; `values`
// [n] becomes those. A vector's largest component is positive. Error(kFailure) where the solver
// finds none.
void symmetric_eigen(std::span<double> matrix, std::span<double> values);

// What that holds besides its arguments, for plans: charged while it runs.
[[nodiscard]] constexpr std::uint64_t symmetric_eigen_bytes(std::uint64_t n) noexcept {
    return 8 * (n * n + 4 * n);
}

}  // namespace thimble
