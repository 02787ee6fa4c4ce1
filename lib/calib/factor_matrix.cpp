// SPDX-License-Identifier: Apache-2.0
#include "calib/factor_matrix.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <string>

#include "calib/eigen.h"
#include "core/error.h"
#include "core/ledger.h"

namespace thimble {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Weights =
    Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;
using Floats = Eigen::Map<Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;

constexpr Eigen::Index kPanel = 128;  // columns of the sums that are doubles at a time

template <class Values>
bool all_finite(const Values& values) {
    return std::all_of(values.begin(), values.end(), [](auto v) { return std::isfinite(v); });
}

// What is added to the diagonal.
double damping(const InputNorm& norm, std::int64_t cols) {
    double sum = 0;
    for (std::int64_t c = 0; c < cols; ++c) {
        const auto i = static_cast<std::size_t>(c);
        sum += norm.gram.empty()
                   ? norm.squares[i]
                   : static_cast<double>(norm.gram[i * static_cast<std::size_t>(cols) + i]);
    }
    // Inputs that are always zero: all columns alike.
    return sum > 0 ? norm.damp * sum / static_cast<double>(cols) : 1;
}

bool is_plain(const InputNorm& norm) { return norm.gram.empty() && norm.squares.empty(); }

// Columns [first, first + count) of the damped sums.
Matrix panel(const InputNorm& norm, std::int64_t cols, Eigen::Index first, Eigen::Index count) {
    Matrix out = Matrix::Zero(cols, count);
    if (!norm.gram.empty()) {
        const Weights gram(norm.gram.data(), cols, cols);
        out = gram.middleCols(first, count).cast<double>();
    }
    const double added = is_plain(norm) ? 1 : damping(norm, cols);
    for (Eigen::Index c = 0; c < count; ++c) {
        if (norm.gram.empty() && !norm.squares.empty())
            out(first + c, c) = norm.squares[static_cast<std::size_t>(first + c)];
        out(first + c, c) += added;
    }
    return out;
}

// The unit eigenvectors as rows, by falling eigenvalue, which come second.
std::pair<Matrix, std::vector<double>> eigen_of(Matrix m) {
    std::vector<double> values(static_cast<std::size_t>(m.rows()));
    symmetric_eigen({m.data(), static_cast<std::size_t>(m.size())}, values);
    return {std::move(m), std::move(values)};
}

void keep_falling(std::vector<double>& energy) {
    for (std::size_t i = 0; i < energy.size(); ++i) {
        energy[i] = std::max(energy[i], 0.0);
        if (i > 0) energy[i] = std::min(energy[i], energy[i - 1]);
    }
}

// More columns than rows: B = U, A = U^T W.
void factor_wide(const Matrix& w, const InputNorm& norm, MatrixFactors& out, Floats a, Floats b) {
    Matrix sums = Matrix::Zero(w.rows(), w.rows());
    for (Eigen::Index c = 0; c < w.cols(); c += kPanel) {
        const Eigen::Index count = std::min(kPanel, w.cols() - c);
        const Matrix part = w * panel(norm, w.cols(), c, count);
        sums.noalias() += part * w.middleCols(c, count).transpose();
    }
    sums = 0.5 * (sums + sums.transpose().eval());
    auto [vectors, values] = eigen_of(std::move(sums));
    out.energy = std::move(values);
    b = vectors.topRows(b.rows()).cast<float>();
    a = (vectors.topRows(a.rows()) * w).cast<float>();
}

// B_k = W L v_k / s_k, A_k = s_k v_k^T L^-1, with s_k the length of W L v_k.
void factor_tall(const Matrix& w, const InputNorm& norm, std::string_view where, MatrixFactors& out,
                 Floats a, Floats b) {
    Matrix l = panel(norm, w.cols(), 0, w.cols());
    const Eigen::LLT<Eigen::Ref<Matrix>> factor(l);
    if (factor.info() != Eigen::Success) {
        throw Error(Exit::kBadData, std::string(where),
                    "the products of its inputs are not positive definite",
                    "use a longer text, or a larger --damp");
    }
    l.triangularView<Eigen::StrictlyUpper>().setZero();
    const Matrix product = w * l;
    auto [vectors, values] = eigen_of(product.transpose() * product);
    out.energy = std::move(values);
    const Eigen::Index most = a.rows();
    Matrix left = vectors.topRows(most) * product.transpose();  // [most, rows]
    Matrix right = vectors.topRows(most);
    l.triangularView<Eigen::Lower>().solveInPlace<Eigen::OnTheRight>(right);
    for (Eigen::Index k = 0; k < most; ++k) {
        const double length = left.row(k).norm();
        if (length > 0) left.row(k) /= length;
        right.row(k) *= length;
    }
    a = right.cast<float>();
    b = left.cast<float>();
}

}  // namespace

MatrixFactors factor_matrix(std::span<const float> weights, Shape2 shape, const InputNorm& norm,
                            std::int64_t most, std::string_view where) {
    if (!all_finite(weights) || !all_finite(norm.squares) || !all_finite(norm.gram))
        throw Error(Exit::kBadData, std::string(where),
                    "has weights or inputs that are not finite");
    const Charge charge(Tier::kRam, Purpose::kOther, factor_matrix_bytes(shape, most));
    MatrixFactors out;
    out.a.resize(static_cast<std::size_t>(most * shape.cols));
    out.b.resize(static_cast<std::size_t>(most * shape.rows));
    const Floats a(out.a.data(), most, shape.cols), b(out.b.data(), most, shape.rows);
    const Matrix w = Weights(weights.data(), shape.rows, shape.cols).cast<double>();
    if (shape.rows <= shape.cols) {
        factor_wide(w, norm, out, a, b);
    } else {
        factor_tall(w, norm, where, out, a, b);
    }
    keep_falling(out.energy);
    return out;
}

std::uint64_t factor_matrix_bytes(Shape2 shape, std::int64_t most) {
    const std::int64_t small = std::min(shape.rows, shape.cols), sum = shape.rows + shape.cols;
    const std::int64_t doubles = 2 * shape.rows * shape.cols + 3 * small * small + 2 * most * sum +
                                 3 * kPanel * std::max(shape.rows, shape.cols);
    return static_cast<std::uint64_t>(doubles * std::int64_t{sizeof(double)} +
                                      most * sum * std::int64_t{sizeof(float)});
}

}  // namespace thimble
