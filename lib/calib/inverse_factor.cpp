// SPDX-License-Identifier: Apache-2.0
// With P the reversal of rows, P H P = L L^T gives H = R R^T for the upper triangular R = P L P, so
// H^-1 = R^-T R^-1 and U = R^-1: one factorisation and one triangular inverse, without the inverse
// of H itself.
#include "calib/inverse_factor.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <string>

#include "core/error.h"

namespace thimble {
namespace {

using Matrix = Eigen::Map<Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;

std::size_t matrix_bytes(std::int64_t n) {
    return static_cast<std::size_t>(n * n) * sizeof(double);
}

}  // namespace

std::size_t inverse_factor_bytes(std::int64_t n) {
    return 2 * Buffer::charged_bytes(matrix_bytes(n));
}

Buffer inverse_factor(std::span<const float> gram, std::int64_t n, double damp,
                      std::string_view where) {
    const auto at = [&](std::int64_t r, std::int64_t c) {
        return static_cast<double>(gram[static_cast<std::size_t>(r * n + c)]);
    };
    const bool finite =
        std::all_of(gram.begin(), gram.end(), [](float v) { return std::isfinite(v); });
    double mean = 0;
    for (std::int64_t i = 0; i < n; ++i) mean += at(i, i) / static_cast<double>(n);
    const double added = mean > 0 ? damp * mean : 0;

    Buffer reversed(matrix_bytes(n), Purpose::kOther), out(matrix_bytes(n), Purpose::kOther);
    Matrix h(reversed.as<double>(), n, n), u(out.as<double>(), n, n);
    for (std::int64_t r = 0; r < n; ++r) {
        for (std::int64_t c = 0; c < n; ++c) {
            const bool dead = at(r, r) <= 0 || at(c, c) <= 0;
            double value = dead ? (r == c ? 1 : 0) : at(r, c);
            if (r == c && !dead) value += added;
            h(n - 1 - r, n - 1 - c) = value;
        }
    }
    const Eigen::LLT<
        Eigen::Ref<Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>>
        factor(h);
    if (!finite || factor.info() != Eigen::Success) {
        throw Error(Exit::kBadData, std::string(where),
                    "the products of its inputs are not positive definite",
                    "use a longer text, or a larger damp");
    }
    // P L^-1 P is upper triangular.
    u.setIdentity();
    h.triangularView<Eigen::Lower>().solveInPlace(u);
    for (std::int64_t r = 0; r < n; ++r) {
        for (std::int64_t c = 0; c < n; ++c) h(r, c) = u(n - 1 - r, n - 1 - c);
    }
    return reversed;
}

}  // namespace thimble
