// SPDX-License-Identifier: Apache-2.0
#include "matmul_cases.h"

namespace thimble::cuda_test {

void check_matvec_i8() {
    std::vector<float> taken;
    // x stands for its codes, so that what differs from double is the rounding of float sums alone.
    const auto kernel = [&](const cuda::Matmul& problem, cuda::Stream& stream) {
        const std::int64_t cols = problem.weight.cols;
        const auto n = static_cast<std::size_t>(problem.tokens * cols);
        Array<std::int8_t> codes(n);
        Array<float> scales(n / 32), sums(n / 16);
        cuda::quantise_i8({problem.x, problem.tokens, cols, problem.x_stride, codes.data(),
                           scales.data(), sums.data()},
                          stream);
        cuda::Matmul with = problem;
        with.codes = codes.data(), with.scales = scales.data(), with.sums = sums.data();
        CHECK(cuda::supports_matvec_i8(with) == (problem.tokens > 0));
        cuda::matvec_i8(with, stream);
        const auto c = codes.get();
        const auto s = scales.get();
        taken.clear();
        for (std::size_t i = 0; i < n; ++i) taken.push_back(s[i / 32] * static_cast<float>(c[i]));
    };
    for (const LayoutId layout : {LayoutId::k_q8_0, LayoutId::k_q4_0, LayoutId::k_q4_k}) {
        for (const std::int64_t cols : {256, 1280, 576}) {
            if (cols % layout_info(layout).block_elements == 0)
                check_tokens({layout, {}}, 11, cols, 3, kernel, &taken);
        }
    }
}

}  // namespace thimble::cuda_test
