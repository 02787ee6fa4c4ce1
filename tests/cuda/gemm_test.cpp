// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/blas.h"
#include "kernels/layout/half.h"
#include "matmul_cases.h"

namespace thimble::cuda_test {

void check_gemm() {
    cuda::Blas blas(stream());
    std::vector<float> taken;
    const auto kernel = [&](const cuda::Matmul& problem, cuda::Stream& stream) {
        const cuda::Matrix& w = problem.weight;
        const Array<std::uint16_t> x(static_cast<std::size_t>(problem.tokens * w.cols));
        cuda::narrow({problem.x, problem.tokens, w.cols, problem.x_stride, w.layout, x.data()},
                     stream);
        const cuda::Gemm gemm{&blas,
                              w,
                              x.data(),
                              problem.tokens,
                              problem.out,
                              problem.out_stride,
                              problem.accumulate};
        CHECK(cuda::supports_gemm(gemm));
        cuda::gemm(gemm, stream);
        taken.clear();
        for (const std::uint16_t bits : x.get())
            taken.push_back(w.layout == LayoutId::k_f16 ? f16_to_f32(bits) : bf16_to_f32(bits));
    };
    for (const LayoutId layout : {LayoutId::k_f16, LayoutId::k_bf16}) {
        for (const std::int64_t tokens : {0, 1, 13}) {
            for (const bool accumulate : {false, true})
                check_matmul_case({{layout, {}}, 17, 77, tokens, 1, 2, false, accumulate}, kernel,
                                  &taken);
        }
    }
    cuda::Gemm problem{};
    problem.blas = &blas;
    problem.weight.layout = LayoutId::k_f16, problem.weight.rows = problem.out_stride = 8;
    problem.weight.cols = 16, problem.weight.row_bytes[0] = 32, problem.tokens = 3;
    CHECK(cuda::supports_gemm(problem));
    problem.tokens = std::int64_t{1} << 31;
    CHECK_FALSE(cuda::supports_gemm(problem));
    problem.tokens = 3, problem.weight.row_bytes[0] = std::size_t{1} << 32;
    CHECK_FALSE(cuda::supports_gemm(problem));
    problem.weight.row_bytes[0] = 32, problem.weight.layout = LayoutId::k_f32;
    CHECK_FALSE(cuda::supports_gemm(problem));
}

}  // namespace thimble::cuda_test
