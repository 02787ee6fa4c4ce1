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
    const LayoutParams bytes{8, 32, ScaleType::kF16}, nibbles{4, 32, ScaleType::kF16};
    for (const std::int64_t cols : {256, 1280, 32, 576}) {
        if (cols % 256 == 0) check_tokens({LayoutId::k_q4_k, {}}, 11, cols, 3, kernel, &taken);
        for (const LayoutParams& params : {bytes, nibbles})
            check_tokens({LayoutId::k_affine, params}, 11, cols, 3, kernel, &taken);
    }
    // Zero points, other groups and types of scales are not for it.
    for (const PackedForm& form : {PackedForm{LayoutId::k_affine, nibbles, true},
                                   {LayoutId::k_affine, nibbles, false, true},
                                   {LayoutId::k_affine, {4, 64, ScaleType::kF16}},
                                   {LayoutId::k_affine, {3, 32, ScaleType::kF16}},
                                   {LayoutId::k_affine, {4, 32, ScaleType::kF32}},
                                   {LayoutId::k_q8_0, {}}}) {
        const Array<float> x(std::vector<float>(512));
        const Array<std::int8_t> codes(256);
        const Packed weight(form, 2, 256, 1);
        CHECK_FALSE(cuda::supports_matvec_i8({weight.matrix(), x.data(), 1, 256, codes.data(),
                                              x.data(), x.data(), x.data(), 2, nullptr, false}));
    }
}

}  // namespace thimble::cuda_test
