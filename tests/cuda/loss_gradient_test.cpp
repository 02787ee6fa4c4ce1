// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "harness.h"

namespace thimble::cuda_test {
namespace {

// A tile from column `first` on, where some targets are and others are not.
void check_case(std::int64_t rows, std::int64_t cols, std::int64_t first, float size) {
    CAPTURE(rows);
    CAPTURE(cols);
    const std::int64_t stride = cols + 3;
    const auto z = values(static_cast<std::size_t>(rows * stride), 1, size);
    const double scale = 1.0 / 37;
    std::vector<std::int32_t> targets;
    std::vector<double> stats, want(z.begin(), z.end());
    for (std::int64_t r = 0; r < rows; ++r) {
        targets.push_back(static_cast<std::int32_t>(r % 2 == 0 ? first + (r * 5 + cols - 1) % cols
                                                               : first - 1 - r % 3));
        const double top = 3.5 * static_cast<double>(size), sum = 1.5 + static_cast<double>(r);
        stats.insert(stats.end(), {top, sum, 0});
        for (std::int64_t i = 0; i < cols; ++i) {
            double& to = want[static_cast<std::size_t>(r * stride + i)];
            to = scale * (std::exp(to - top) / sum - (first + i == targets.back() ? 1 : 0));
        }
    }
    const std::vector<float> got = run_all_orders([&] {
        const Array<float> dz(z);
        const Array<std::int32_t> dt(targets);
        const Array<double> ds(stats);
        cuda::loss_gradient({.z = dz.data(),
                             .rows = rows,
                             .cols = cols,
                             .stride = stride,
                             .first = first,
                             .targets = dt.data(),
                             .stats = ds.data(),
                             .scale = scale},
                            stream());
        return dz.get();
    });
    // An exp of an argument up to 7 sizes below zero, which is at most 1, and a subtraction; what
    // lies between the rows is as it was.
    check_close(got, want, scale * 0x1p-24 * (8 + 7 * static_cast<double>(size)));
}

}  // namespace

void check_loss_gradient() {
    check_case(0, 8, 0, 1);
    check_case(1, 1, 0, 1);
    check_case(5, 33, 7, 1);
    check_case(2, 700, 4096, 10);
}

}  // namespace thimble::cuda_test
