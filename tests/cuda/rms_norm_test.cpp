// SPDX-License-Identifier: Apache-2.0
#include "harness.h"
#include "kernels/ref/ref.h"

namespace thimble::cuda_test {

void check_rms_norm() {
    for (const std::int64_t rows : {0, 1, 3}) {
        for (const std::int64_t cols : {1, 31, 64, 640, 1025}) {
            CAPTURE(rows);
            CAPTURE(cols);
            const std::int64_t stride = cols + 3;
            const auto x = values(static_cast<std::size_t>(rows * stride), 1);
            const auto weight = values(static_cast<std::size_t>(cols), 2);
            std::vector<float> all = run_all_orders([&] {
                const Array<float> dx(x), dw(weight);
                Array<float> out(static_cast<std::size_t>(rows * cols));
                cuda::rms_norm({dx.data(), dw.data(), out.data(), rows, cols, stride, cols, 1e-5f},
                               stream());
                return out.get();
            });
            std::vector<double> want(static_cast<std::size_t>(rows * cols));
            const std::vector<double> w(weight.begin(), weight.end());
            for (std::int64_t r = 0; r < rows; ++r) {
                const std::vector<double> row(x.begin() + r * stride,
                                              x.begin() + r * stride + cols);
                ref::rms_norm(row.data(), w.data(), cols, 1e-5, want.data() + r * cols);
            }
            check_close(all, want, 2e-5);
        }
    }
}

}  // namespace thimble::cuda_test
