// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

namespace thimble::cuda_test {
namespace {

void check_case(std::int64_t rows, std::int64_t cols, std::int64_t gap, float rate) {
    CAPTURE(rows);
    CAPTURE(cols);
    const std::int64_t stride = cols + gap;
    const auto x = values(static_cast<std::size_t>(rows * stride), 1);
    const std::uint64_t seed = 77, number = (std::uint64_t{5} << 40) + 3;
    const std::vector<float> got = run_all_orders([&] {
        const Array<float> dx(x), out(x);
        cuda::dropout({.x = dx.data(),
                       .out = out.data(),
                       .rows = rows,
                       .cols = cols,
                       .x_stride = stride,
                       .out_stride = stride,
                       .rate = rate,
                       .factor = 1 / (1 - rate),
                       .seed = seed,
                       .stream = number},
                      stream());
        return out.get();
    });
    std::vector<double> want(x.begin(), x.end());
    for (std::int64_t e = 0; e < rows * cols; ++e) {
        const auto u = static_cast<std::uint64_t>(e);
        const auto at = static_cast<std::size_t>(e / cols * stride + e % cols);
        const bool drops = unit_float(philox(seed, u / 4, number).v[u % 4]) < rate;
        want[at] = drops ? 0 : static_cast<double>(x[at] * (1 / (1 - rate)));
    }
    check_close(got, want, 0);
}

}  // namespace

void check_dropout() {
    check_case(0, 8, 0, 0.5f);
    check_case(1, 1, 0, 0.5f);
    check_case(5, 7, 2, 0.3f);
    check_case(3, 700, 0, 0.9f);
}

}  // namespace thimble::cuda_test
