// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "harness.h"
#include "kernels/ref/ref.h"

namespace thimble::cuda_test {
namespace {

// max, place, sum of each row.
std::vector<float> statistics(const std::vector<float>& x, std::int64_t rows, std::int64_t cols,
                              std::int64_t stride) {
    return run_all_orders([&] {
        const auto n = static_cast<std::size_t>(rows);
        const Array<float> dx(x);
        const Array<float> max(n), sum(n);
        const Array<std::int32_t> argmax(n);
        cuda::row_stats({dx.data(), rows, cols, stride, max.data(), argmax.data(), sum.data()},
                        stream());
        std::vector<float> out;
        for (std::size_t r = 0; r < n; ++r) {
            out.push_back(max.get()[r]);
            out.push_back(static_cast<float>(argmax.get()[r]));
            out.push_back(sum.get()[r]);
        }
        return out;
    });
}

void check_statistics(std::int64_t rows, std::int64_t cols, std::int64_t gap, float size) {
    CAPTURE(rows);
    CAPTURE(cols);
    const std::int64_t stride = cols + gap;
    const auto x = values(static_cast<std::size_t>(rows * stride), 8, size);
    const std::vector<float> got = statistics(x, rows, cols, stride);
    REQUIRE(std::ssize(got) == 3 * rows);
    for (std::int64_t r = 0; r < rows; ++r) {
        const std::vector<double> row(x.begin() + r * stride, x.begin() + r * stride + cols);
        double log_sum = 0;
        std::int64_t at = 0;
        ref::row_stats(row.data(), cols, &log_sum, &at);
        const double top = row[static_cast<std::size_t>(at)], want = std::exp(log_sum - top);
        const float* of = got.data() + 3 * r;
        CHECK(static_cast<double>(of[0]) == top);
        CHECK(of[1] == static_cast<float>(at));
        // A thread's terms, the merges of its warp and block, and exp itself.
        const double roundings = static_cast<double>(cols) / 512 + 64;
        CHECK(std::abs(static_cast<double>(of[2]) - want) <= roundings * 0x1p-24 * want);
    }
}

}  // namespace

void check_row_stats() {
    for (const std::int64_t cols : {1, 2, 31, 512, 513, 5000}) check_statistics(2, cols, 3, 4);
    check_statistics(0, 4, 0, 1);
    check_statistics(1, 20000, 0, 0.01f);

    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    std::vector<float> x(1400, -1);
    x[1399] = x[700] = x[701] = x[1212] = 2;  // the lowest place, whichever thread holds it
    x[3] = -kInfinity;
    std::vector<float> got = statistics(x, 1, 1400, 1400);
    CHECK(got[0] == 2);
    CHECK(got[1] == 700);
    CHECK(std::abs(got[2] - (4 + 1395 * std::exp(-3.0f))) < 1e-3f);
    x[1000] = std::numeric_limits<float>::quiet_NaN();
    got = statistics(x, 1, 1400, 1400);
    CHECK(got[0] == 2);
    CHECK(std::isnan(got[2]));
    got = statistics(std::vector<float>(600, -kInfinity), 1, 600, 600);
    CHECK(got[1] == 0);
    CHECK(std::isnan(got[2]));
}

}  // namespace thimble::cuda_test
