// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "harness.h"
#include "kernels/layout/half.h"

namespace thimble::cuda_test {

void check_narrow() {
    for (const LayoutId layout : {LayoutId::k_f16, LayoutId::k_bf16}) {
        for (const std::int64_t rows : {0, 1, 3}) {
            for (const std::int64_t cols : {1, 7, 64, 300}) {
                CAPTURE(rows);
                CAPTURE(cols);
                const std::int64_t stride = cols + 3;
                auto x = values(static_cast<std::size_t>(rows * stride), 1);
                if (rows == 3 && cols == 300) {
                    // Ties of either type, overflow, subnormals.
                    const float odd[] = {0x1.002p0f,
                                         0x1.006p0f,
                                         0x1.01p0f,
                                         0x1.03p0f,
                                         65520.0f,
                                         1e38f,
                                         0x1p-25f,
                                         0x3p-26f,
                                         -0.0f,
                                         1e-40f,
                                         std::numeric_limits<float>::infinity()};
                    std::copy(std::begin(odd), std::end(odd), x.begin());
                }
                const auto got = run_all_orders([&] {
                    const Array<float> dx(x);
                    const Array<std::uint16_t> out(static_cast<std::size_t>(rows * cols));
                    cuda::narrow({dx.data(), rows, cols, stride, layout, out.data()}, stream());
                    const auto bits = out.get();
                    return std::vector<float>(bits.begin(), bits.end());
                });
                REQUIRE(std::ssize(got) == rows * cols);
                for (std::int64_t i = 0; i < rows * cols; ++i) {
                    const float from = x[static_cast<std::size_t>(i / cols * stride + i % cols)];
                    const std::uint16_t want =
                        layout == LayoutId::k_f16 ? f32_to_f16(from) : f32_to_bf16(from);
                    CAPTURE(from);
                    REQUIRE(got[static_cast<std::size_t>(i)] == want);
                }
            }
        }
    }
    CHECK_FALSE(cuda::supports_narrow({nullptr, 1, 4, 4, LayoutId::k_f32, nullptr}));
}

}  // namespace thimble::cuda_test
