// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "harness.h"

namespace thimble::cuda_test {
namespace {

void check_case(std::int64_t rows, std::int64_t cols, bool with_x, bool with_r) {
    CAPTURE(rows);
    CAPTURE(cols);
    CAPTURE(with_x);
    CAPTURE(with_r);
    const std::int64_t stride = cols + 5;
    const auto n = static_cast<std::size_t>(rows * stride);
    const auto y = values(n, 1), x = values(n, 2), r = values(static_cast<std::size_t>(rows), 3);
    const auto before = values(static_cast<std::size_t>(cols), 4);
    const std::vector<float> got = run_all_orders([&] {
        const Array<float> dy(y), dx(x), dr(r), sums(before);
        cuda::column_sums({.y = dy.data(),
                           .x = with_x ? dx.data() : nullptr,
                           .r = with_r ? dr.data() : nullptr,
                           .rows = rows,
                           .cols = cols,
                           .y_stride = stride,
                           .x_stride = stride,
                           .sums = sums.data()},
                          stream());
        return sums.get();
    });
    std::vector<double> want(before.begin(), before.end());
    for (std::int64_t t = 0; t < rows; ++t) {
        for (std::int64_t i = 0; i < cols; ++i) {
            const auto at = static_cast<std::size_t>(t * stride + i);
            want[static_cast<std::size_t>(i)] +=
                static_cast<double>(y[at]) * (with_x ? static_cast<double>(x[at]) : 1.0) *
                (with_r ? static_cast<double>(r[static_cast<std::size_t>(t)]) : 1.0);
        }
    }
    // Terms are below 3.5^3, and a column is summed in runs of an eighth of the rows.
    const double terms = 43 * std::sqrt(static_cast<double>(rows) + 1);
    check_close(got, want, 0x1p-24 * terms * (8 + std::sqrt(static_cast<double>(rows))));
}

}  // namespace

void check_column_sums() {
    for (const bool with_x : {false, true}) {
        for (const bool with_r : {false, true}) {
            check_case(0, 8, with_x, with_r);
            check_case(1, 1, with_x, with_r);
            check_case(7, 33, with_x, with_r);
            check_case(130, 64, with_x, with_r);
        }
    }
}

}  // namespace thimble::cuda_test
