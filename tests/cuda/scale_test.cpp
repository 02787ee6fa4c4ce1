// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

namespace thimble::cuda_test {
namespace {

void check_product(std::int64_t rows, std::int64_t cols, std::size_t offset, std::int64_t gap) {
    CAPTURE(rows);
    CAPTURE(cols);
    CAPTURE(offset);
    const std::int64_t stride = cols + gap;
    const auto x = values(offset + static_cast<std::size_t>(rows * stride), 3);
    const std::vector<float> got = run_all_orders([&] {
        const Array<float> dx(x);
        cuda::scale({dx.data() + offset, rows, cols, stride, 0.37f}, stream());
        return dx.get();
    });
    for (std::size_t i = 0; i < x.size(); ++i) {
        const std::int64_t at = static_cast<std::int64_t>(i) - static_cast<std::int64_t>(offset);
        CAPTURE(i);
        CHECK(got[i] == (at >= 0 && at % stride < cols ? x[i] * 0.37f : x[i]));
    }
}

}  // namespace

void check_scale() {
    check_product(0, 8, 0, 0);
    check_product(1, 3, 0, 0);
    check_product(3, 64, 0, 4);
    check_product(3, 66, 0, 3);
    check_product(2, 35, 1, 0);
    check_product(1, 1500, 0, 0);
}

}  // namespace thimble::cuda_test
