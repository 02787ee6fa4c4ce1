// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "harness.h"
#include "kernels/cuda/blas.h"
#include "kernels/layout/half.h"

namespace thimble::cuda_test {
namespace {

struct Operand {
    std::vector<float> floats;
    std::vector<std::uint16_t> halves;  // the same, rounded
    std::int64_t stride;
    [[nodiscard]] double at(std::int64_t row, std::int64_t col, bool transposed, bool bf16) const {
        const auto i =
            static_cast<std::size_t>(transposed ? col * stride + row : row * stride + col);
        return static_cast<double>(bf16 ? bf16_to_f32(halves[i]) : floats[i]);
    }
};
// [rows, cols], or held as its transpose.
Operand operand(std::int64_t rows, std::int64_t cols, bool transposed, std::uint32_t seed) {
    Operand o;
    o.stride = (transposed ? rows : cols) + 3;
    o.floats = values(static_cast<std::size_t>((transposed ? cols : rows) * o.stride), seed);
    for (const float v : o.floats) o.halves.push_back(f32_to_bf16(v));
    return o;
}

void check_case(std::int64_t m, std::int64_t n, std::int64_t k, bool a_transposed,
                bool b_transposed, bool bf16, bool accumulate) {
    CAPTURE(m);
    CAPTURE(n);
    CAPTURE(k);
    CAPTURE(a_transposed);
    CAPTURE(b_transposed);
    CAPTURE(bf16);
    const Operand a = operand(m, k, a_transposed, 1), b = operand(k, n, b_transposed, 2);
    const std::int64_t stride = n + 2;
    const auto before = values(static_cast<std::size_t>(m * stride), 3);
    cuda::Blas blas(stream());
    const std::vector<float> got = run_all_orders([&] {
        const Array<float> fa(a.floats), fb(b.floats), c(before);
        const Array<std::uint16_t> ha(a.halves), hb(b.halves);
        const cuda::Product problem{.blas = &blas,
                                    .a = bf16 ? static_cast<const void*>(ha.data()) : fa.data(),
                                    .b = bf16 ? static_cast<const void*>(hb.data()) : fb.data(),
                                    .a_transposed = a_transposed,
                                    .b_transposed = b_transposed,
                                    .bf16 = bf16,
                                    .m = m,
                                    .n = n,
                                    .k = k,
                                    .a_stride = a.stride,
                                    .b_stride = b.stride,
                                    .c = c.data(),
                                    .c_stride = stride,
                                    .accumulate = accumulate};
        REQUIRE(cuda::supports_product(problem));
        cuda::product(problem, stream());
        return c.get();
    });
    std::vector<double> want(before.begin(), before.end());
    for (std::int64_t i = 0; i < m; ++i) {
        for (std::int64_t j = 0; j < n; ++j) {
            double sum = 0;
            for (std::int64_t l = 0; l < k; ++l)
                sum += a.at(i, l, a_transposed, bf16) * b.at(l, j, b_transposed, bf16);
            double& to = want[static_cast<std::size_t>(i * stride + j)];
            to = accumulate ? to + sum : sum;
        }
    }
    // Products of values below 3.5, in any order of summing.
    check_close(got, want, 0x1p-24 * 12.25 * std::pow(static_cast<double>(k + 2), 1.5));
}

}  // namespace

void check_product() {
    for (const bool bf16 : {false, true}) {
        for (const bool a_transposed : {false, true}) {
            for (const bool b_transposed : {false, true}) {
                check_case(3, 5, 17, a_transposed, b_transposed, bf16, false);
                check_case(8, 1, 33, a_transposed, b_transposed, bf16, true);
                check_case(1, 4, 1, a_transposed, b_transposed, bf16, true);
            }
        }
    }
    check_case(0, 4, 3, false, false, false, false);
    cuda::Product problem{};
    problem.m = problem.n = problem.k = 4;
    problem.a_stride = problem.b_stride = problem.c_stride = 4;
    CHECK(cuda::supports_product(problem));
    problem.k = 0;
    CHECK_FALSE(cuda::supports_product(problem));
    problem.k = 4, problem.b_stride = 3;
    CHECK_FALSE(cuda::supports_product(problem));
    problem.b_stride = std::int64_t{1} << 31;
    CHECK_FALSE(cuda::supports_product(problem));
}

}  // namespace thimble::cuda_test
