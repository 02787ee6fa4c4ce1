// SPDX-License-Identifier: Apache-2.0
#include "calib/refit.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/ledger.h"

namespace thimble {

std::size_t refit_bytes(Shape2 shape) {
    const auto rows = static_cast<std::size_t>(shape.rows);
    const auto cols = static_cast<std::size_t>(shape.cols);
    return sizeof(double) * (cols * cols + rows * cols);
}

void refit_columns(std::span<float> weights, Shape2 shape, std::span<const float> gram,
                   std::span<const std::int64_t> kept, double damp, std::string_view where) {
    const std::int64_t cols = shape.cols;
    std::vector<bool> stays(static_cast<std::size_t>(cols));
    for (const std::int64_t c : kept) stays[static_cast<std::size_t>(c)] = true;
    std::vector<std::int64_t> gone;
    for (std::int64_t c = 0; c < cols; ++c)
        if (!stays[static_cast<std::size_t>(c)]) gone.push_back(c);
    if (gone.empty()) return;

    const Charge charge(Tier::kRam, Purpose::kOther, refit_bytes(shape));
    const auto at = [&](std::int64_t r, std::int64_t c) {
        return static_cast<double>(gram[static_cast<std::size_t>(r * cols + c)]);
    };
    bool finite = true;
    double mean = 0;
    for (const float v : gram) finite = finite && std::isfinite(v);
    for (std::int64_t c = 0; c < cols; ++c) mean += at(c, c) / static_cast<double>(cols);
    const auto k = std::ssize(kept), d = std::ssize(gone);
    Eigen::MatrixXd among(k, k), between(k, d), dropped(shape.rows, d);
    for (std::int64_t a = 0; a < k; ++a) {
        const std::int64_t row = kept[static_cast<std::size_t>(a)];
        for (std::int64_t b = 0; b < k; ++b)
            among(a, b) = at(row, kept[static_cast<std::size_t>(b)]);
        // An input that is always zero stands for itself.
        among(a, a) += mean > 0 ? damp * mean : 1;
        for (std::int64_t b = 0; b < d; ++b)
            between(a, b) = at(row, gone[static_cast<std::size_t>(b)]);
    }
    const Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>> factor(among);
    if (!finite || factor.info() != Eigen::Success) {
        throw Error(Exit::kBadData, std::string(where),
                    "the products of its inputs are not positive definite",
                    "use a longer text, or a larger damp");
    }
    factor.solveInPlace(between);
    for (std::int64_t r = 0; r < shape.rows; ++r) {
        float* row = weights.data() + r * cols;
        for (std::int64_t b = 0; b < d; ++b) {
            float& w = row[gone[static_cast<std::size_t>(b)]];
            dropped(r, b) = static_cast<double>(w);
            w = 0;
        }
    }
    const Eigen::MatrixXd change = dropped * between.transpose();
    for (std::int64_t r = 0; r < shape.rows; ++r) {
        for (std::int64_t a = 0; a < k; ++a) {
            float& w =
                weights[static_cast<std::size_t>(r * cols + kept[static_cast<std::size_t>(a)])];
            w = static_cast<float>(static_cast<double>(w) + change(r, a));
        }
    }
}

}  // namespace thimble
