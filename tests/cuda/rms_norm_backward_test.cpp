// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "harness.h"
#include "kernels/ref/gradients.h"

namespace thimble::cuda_test {
namespace {

void check_case(std::int64_t rows, std::int64_t cols, bool accumulate, bool in_place) {
    CAPTURE(rows);
    CAPTURE(cols);
    CAPTURE(accumulate);
    const std::int64_t stride = cols + 3;
    const auto n = static_cast<std::size_t>(rows * stride);
    const auto x = values(n, 1), dy = values(n, 3), before = in_place ? dy : values(n, 4);
    const auto weight = values(static_cast<std::size_t>(cols), 2);
    const std::vector<float> got = run_all_orders([&] {
        const Array<float> dev_x(x), dev_w(weight), dev_dy(dy), dev_dx(before),
            r(static_cast<std::size_t>(rows));
        cuda::inverse_rms({dev_x.data(), rows, cols, stride, 1e-5f, r.data()}, stream());
        cuda::rms_norm_backward({.x = dev_x.data(),
                                 .weight = dev_w.data(),
                                 .dy = in_place ? dev_dx.data() : dev_dy.data(),
                                 .r = r.data(),
                                 .dx = dev_dx.data(),
                                 .rows = rows,
                                 .cols = cols,
                                 .x_stride = stride,
                                 .dy_stride = stride,
                                 .dx_stride = stride,
                                 .accumulate = accumulate},
                                stream());
        return dev_dx.get();
    });
    std::vector<double> want(before.begin(), before.end());
    const std::vector<double> w(weight.begin(), weight.end());
    double largest = 1;
    for (std::int64_t t = 0; t < rows; ++t) {
        const auto at = t * stride;
        const std::vector<double> row(x.begin() + at, x.begin() + at + cols);
        const std::vector<double> up(dy.begin() + at, dy.begin() + at + cols);
        ref::rms_norm_backward(row.data(), w.data(), up.data(), cols, 1e-5, accumulate,
                               want.data() + at, static_cast<double*>(nullptr));
        double squares = 0;
        for (const double v : row) squares += v * v;
        // A term r dy w, or r x r^2 mean(dy w x), is at most this (values are below 3.5).
        largest = std::max(largest, 2 * 12.25 / std::sqrt(squares / static_cast<double>(cols)));
    }
    check_close(got, want, 32 * 0x1p-24 * largest);
}

}  // namespace

void check_rms_norm_backward() {
    for (const auto& [accumulate, in_place] :
         {std::pair(false, false), {true, false}, {false, true}}) {
        check_case(0, 8, accumulate, in_place);
        check_case(1, 31, accumulate, in_place);
        check_case(3, 640, accumulate, in_place);
        check_case(2, 1025, accumulate, in_place);
    }
}

}  // namespace thimble::cuda_test
