// SPDX-License-Identifier: Apache-2.0
#include "matmul_cases.h"

namespace thimble::cuda_test {

void check_matvec_half() {
    for (const LayoutId layout : {LayoutId::k_f16, LayoutId::k_bf16}) {
        for (const std::int64_t cols : {8, 264, 1000})
            check_tokens({layout, {}}, 11, cols, 4, cuda::matvec_half);
    }
    const Packed weight({LayoutId::k_f16, {}}, 1, 16, 1);
    const Array<float> x(20);
    cuda::Matmul problem{};
    problem.weight = weight.matrix();
    problem.x = x.data(), problem.tokens = 1, problem.x_stride = 17;
    CHECK(cuda::supports_matvec_half(problem));
    problem.tokens = 2;
    CHECK_FALSE(cuda::supports_matvec_half(problem));
    problem.tokens = 1, problem.x += 1;
    CHECK_FALSE(cuda::supports_matvec_half(problem));
    problem.x -= 1, problem.x_stride = 16, problem.tokens = 9;
    CHECK_FALSE(cuda::supports_matvec_half(problem));
    problem.tokens = 8, problem.weight.cols = 12;
    CHECK_FALSE(cuda::supports_matvec_half(problem));
    problem.weight.cols = 16, problem.weight.layout = LayoutId::k_q8_0;
    CHECK_FALSE(cuda::supports_matvec_half(problem));
}

}  // namespace thimble::cuda_test
