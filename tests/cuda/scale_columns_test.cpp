// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

namespace thimble::cuda_test {
namespace {

void check_case(std::int64_t rows, std::int64_t cols, std::int64_t gap, bool factors, bool bias,
                bool in_place) {
    CAPTURE(rows);
    CAPTURE(cols);
    CAPTURE(factors);
    CAPTURE(bias);
    const std::int64_t stride = cols + gap;
    const auto n = static_cast<std::size_t>(rows * stride);
    const auto x = values(n, 1);
    const auto f = values(static_cast<std::size_t>(cols), 2);
    const auto b = values(static_cast<std::size_t>(cols), 3);
    const std::vector<float> got = run_all_orders([&] {
        const Array<float> dx(x), df(f), db(b), out(x);
        cuda::scale_columns({.x = in_place ? out.data() : dx.data(),
                             .factors = factors ? df.data() : nullptr,
                             .bias = bias ? db.data() : nullptr,
                             .out = out.data(),
                             .rows = rows,
                             .cols = cols,
                             .x_stride = stride,
                             .out_stride = stride},
                            stream());
        return out.get();
    });
    std::vector<double> want(x.begin(), x.end());
    for (std::size_t i = 0; i < n; ++i) {
        const auto column = static_cast<std::int64_t>(i) % stride;
        if (column >= cols) continue;
        const auto c = static_cast<std::size_t>(column);
        if (factors) want[i] *= static_cast<double>(f[c]);
        if (bias) want[i] += static_cast<double>(b[c]);
    }
    check_close(got, want, 2 * 0x1p-24 * 16);  // of at most 3.5^2 + 3.5
}

}  // namespace

void check_scale_columns() {
    for (const bool factors : {false, true}) {
        for (const bool bias : {false, true}) {
            check_case(0, 8, 0, factors, bias, false);
            check_case(1, 1, 0, factors, bias, true);
            check_case(3, 64, 4, factors, bias, false);
            check_case(5, 35, 2, factors, bias, true);
        }
    }
}

}  // namespace thimble::cuda_test
