// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "harness.h"

namespace thimble::cuda_test {

void check_inverse_rms() {
    for (const std::int64_t rows : {0, 1, 3}) {
        for (const std::int64_t cols : {1, 33, 640, 1025}) {
            CAPTURE(rows);
            CAPTURE(cols);
            const std::int64_t stride = cols + 3;
            const auto x = values(static_cast<std::size_t>(rows * stride), 1);
            const std::vector<float> got = run_all_orders([&] {
                const Array<float> dx(x), r(static_cast<std::size_t>(rows));
                cuda::inverse_rms({dx.data(), rows, cols, stride, 1e-5f, r.data()}, stream());
                return r.get();
            });
            std::vector<double> want;
            for (std::int64_t t = 0; t < rows; ++t) {
                double squares = 0;
                for (std::int64_t i = 0; i < cols; ++i) {
                    const auto v = static_cast<double>(x[static_cast<std::size_t>(t * stride + i)]);
                    squares += v * v;
                }
                want.push_back(1 / std::sqrt(squares / static_cast<double>(cols) + 1e-5));
            }
            // Sums of squares are off by a few roundings, the root by half as much.
            for (std::size_t t = 0; t < want.size(); ++t)
                check_close(std::span(got).subspan(t, 1), std::span(want).subspan(t, 1),
                            16 * 0x1p-24 * want[t]);
        }
    }
}

}  // namespace thimble::cuda_test
