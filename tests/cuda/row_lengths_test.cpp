// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "packed.h"

namespace thimble::cuda_test {
namespace {

void check_case(const PackedForm& form, std::int64_t rows, std::int64_t cols, std::int64_t rank) {
    CAPTURE(static_cast<int>(form.layout));
    CAPTURE(cols);
    CAPTURE(rank);
    const Packed packed(form, rows, cols, 7);
    const auto a = values(static_cast<std::size_t>(rank * cols), 1);
    const auto b = values(static_cast<std::size_t>(rows * rank), 2);
    const float scale = 0.75f;
    const std::vector<float> got = run_all_orders([&] {
        const Array<float> da(a), db(b);
        const Array<double> lengths(static_cast<std::size_t>(rows));
        cuda::row_lengths({.matrix = packed.matrix(),
                           .a = da.data(),
                           .b = db.data(),
                           .rank = rank,
                           .scale = scale,
                           .lengths = lengths.data()},
                          stream());
        const std::vector<double> all = lengths.get();
        return std::vector<float>(all.begin(), all.end());
    });
    std::vector<double> want;
    double largest = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
        std::vector<double> row = packed.row(r);
        double sum = 0;
        for (std::int64_t c = 0; c < cols; ++c) {
            double& w = row[static_cast<std::size_t>(c)];
            for (std::int64_t k = 0; k < rank; ++k)
                w += static_cast<double>(scale) *
                     static_cast<double>(b[static_cast<std::size_t>(r * rank + k)]) *
                     static_cast<double>(a[static_cast<std::size_t>(k * cols + c)]);
            sum += w * w;
        }
        want.push_back(std::sqrt(sum));
        largest = std::max(largest, want.back());
    }
    // An element is off by the roundings of its terms, a length by no more relative to what it
    // would be if none of them cancelled.
    check_close(got, want, 0x1p-24 * (32 + 4 * static_cast<double>(rank)) * (largest + 1));
}

}  // namespace

void check_row_lengths() {
    for (const PackedForm& form : packed_forms()) check_case(form, 3, 512, 2);
    check_case({LayoutId::k_f32, {}}, 9, 45, 5);
    check_case({LayoutId::k_bf16, {}}, 1, 1, 1);
    check_case({LayoutId::k_q8_0, {}}, 2, 2080, 0);
    check_case({LayoutId::k_q8_0, {}}, 0, 32, 1);
}

}  // namespace thimble::cuda_test
