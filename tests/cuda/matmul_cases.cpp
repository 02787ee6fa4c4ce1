// SPDX-License-Identifier: Apache-2.0
#include "matmul_cases.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/ref/ref.h"

namespace thimble::cuda_test {

std::vector<float> check_matmul_case(const MatmulCase& problem, const MatmulKernel& kernel,
                                     const std::vector<float>* taken) {
    const std::int64_t rows = problem.rows, cols = problem.cols, tokens = problem.tokens;
    const std::int64_t x_stride = cols + problem.x_gap, out_stride = rows + problem.out_gap;
    CAPTURE(layout_info(problem.form.layout).name);
    CAPTURE(rows);
    CAPTURE(cols);
    CAPTURE(tokens);
    const Packed weight(problem.form, rows, cols, 5);
    auto x = values(static_cast<std::size_t>(tokens * x_stride), 11);
    for (std::int64_t i = 0; i < tokens * x_stride; ++i) {
        if (i % x_stride >= cols)
            x[static_cast<std::size_t>(i)] = std::numeric_limits<float>::quiet_NaN();
    }
    const auto before = values(static_cast<std::size_t>(tokens * out_stride), 12);
    const auto bias = values(static_cast<std::size_t>(rows), 13);
    std::vector<float> got = run_all_orders([&] {
        const Array<float> dx(x), db(bias);
        const Array<float> out(before);
        kernel({weight.matrix(), dx.data(), tokens, x_stride, nullptr, nullptr, nullptr, out.data(),
                out_stride, problem.bias ? db.data() : nullptr, problem.accumulate},
               stream());
        return out.get();
    });
    REQUIRE(got.size() == before.size());
    constexpr double kEpsilon = 0x1p-23;
    for (std::int64_t r = 0; r < out_stride; ++r) {
        const std::vector<double> w = r < rows ? weight.row(r) : std::vector<double>{};
        for (std::int64_t t = 0; t < tokens; ++t) {
            const auto at = static_cast<std::size_t>(t * out_stride + r);
            CAPTURE(t);
            CAPTURE(r);
            if (r >= rows) {
                REQUIRE(got[at] == before[at]);
                continue;
            }
            const float* from =
                taken == nullptr ? x.data() + t * x_stride : taken->data() + t * cols;
            const std::vector<double> row(from, from + cols);
            double want = ref::dot(row.data(), w.data(), cols), squares = 0;
            for (std::size_t k = 0; k < row.size(); ++k) squares += row[k] * w[k] * row[k] * w[k];
            if (problem.bias) want += static_cast<double>(bias[static_cast<std::size_t>(r)]);
            if (problem.accumulate) want += static_cast<double>(before[at]);
            // With p the products: a sum of n rounds like 2 sqrt(n) |p|; rounded factors add
            // |p| times their rounding, here four deviations wide; then bias and what was there.
            const double tolerance =
                std::sqrt(squares) *
                    (2 * kEpsilon * std::sqrt(static_cast<double>(cols)) + 4 * problem.rounding) +
                16 * kEpsilon;
            REQUIRE(std::abs(static_cast<double>(got[at]) - want) <= tolerance);
        }
    }
    return got;
}

void check_tokens(const PackedForm& form, std::int64_t rows, std::int64_t cols, std::int64_t x_gap,
                  const MatmulKernel& kernel, const std::vector<float>* taken) {
    std::vector<float> most;
    for (const std::int64_t tokens : {8, 0, 1, 2, 3, 5}) {
        const bool odd = tokens % 2 == 1;
        const auto got = check_matmul_case({form, rows, cols, tokens, x_gap, odd ? 3 : 0, odd, odd},
                                           kernel, taken);
        if (tokens == 8) most = got;
        if (!odd) CHECK(std::equal(got.begin(), got.end(), most.begin()));
    }
}

}  // namespace thimble::cuda_test
