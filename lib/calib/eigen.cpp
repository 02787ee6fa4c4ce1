// SPDX-License-Identifier: Apache-2.0
#include "calib/eigen.h"

#include <Eigen/Eigenvalues>

#include "core/error.h"
#include "core/ledger.h"

namespace thimble {

void symmetric_eigen(std::span<double> matrix, std::span<double> values) {
    using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    const auto n = static_cast<Eigen::Index>(values.size());
    const Charge charge(Tier::kRam, Purpose::kOther, symmetric_eigen_bytes(values.size()));
    Eigen::Map<Matrix> m(matrix.data(), n, n);
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(m);
    if (solver.info() != Eigen::Success || !solver.eigenvalues().allFinite())
        throw Error(Exit::kFailure, "symmetric_eigen", "found no eigenvalues of the matrix");
    for (Eigen::Index i = 0; i < n; ++i) {  // the solver's rise
        const auto vector = solver.eigenvectors().col(n - 1 - i);
        Eigen::Index largest = 0;
        vector.cwiseAbs().maxCoeff(&largest);
        m.row(i) = (vector[largest] < 0 ? -1.0 : 1.0) * vector.transpose();
        values[static_cast<std::size_t>(i)] = solver.eigenvalues()[n - 1 - i];
    }
}

}  // namespace thimble
