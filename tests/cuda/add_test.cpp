// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

namespace thimble::cuda_test {
namespace {

// In: where each operand begins behind an aligned address, and the gap behind its rows.
void check_sum(std::int64_t rows, std::int64_t cols, std::size_t offset, std::int64_t gap) {
    CAPTURE(rows);
    CAPTURE(cols);
    CAPTURE(offset);
    const std::int64_t stride = cols + gap;
    const std::size_t n = offset + static_cast<std::size_t>(rows * stride);
    const auto a = values(n, 1), b = values(n, 2);
    const std::vector<float> apart = run_all_orders([&] {
        const Array<float> da(a), db(b), out(std::vector<float>(n, -77));
        cuda::add({da.data() + offset, db.data() + offset, out.data() + offset, rows, cols, stride,
                   stride, stride},
                  stream());
        return out.get();
    });
    const std::vector<float> over = run_all_orders([&] {
        const Array<float> da(a), db(b);
        cuda::add({da.data() + offset, db.data() + offset, db.data() + offset, rows, cols, stride,
                   stride, stride},
                  stream());
        return db.get();
    });
    for (std::size_t i = 0; i < n; ++i) {
        const std::int64_t at = static_cast<std::int64_t>(i) - static_cast<std::int64_t>(offset);
        const bool inside = at >= 0 && at % stride < cols;
        CAPTURE(i);
        CHECK(apart[i] == (inside ? a[i] + b[i] : -77));
        CHECK(over[i] == (inside ? a[i] + b[i] : b[i]));
    }
}

}  // namespace

void check_add() {
    check_sum(0, 8, 0, 0);
    check_sum(1, 1, 0, 0);
    check_sum(3, 64, 0, 4);
    check_sum(3, 66, 0, 2);
    check_sum(2, 35, 1, 0);
    check_sum(1, 1500, 0, 0);
}

}  // namespace thimble::cuda_test
