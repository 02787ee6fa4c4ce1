// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "planes_cases.h"

namespace thimble::cuda_test {

void check_matmul_planes() {
    check_widths(10, cuda::matmul_planes);
    // Every number of tokens up to past a fragment's rows; more than one block of each.
    std::vector<float> most;
    for (std::int64_t tokens = 17; tokens > 0; --tokens) {
        const auto got = check_scaled({3, 4, 37, 160, 32, tokens}, cuda::matmul_planes);
        if (tokens == 17) most = got;
        CHECK(std::equal(got.begin(), got.end(), most.begin()));
    }
    check_scaled({2, 8, 130, 576, 64, 67, 3, true, true}, cuda::matmul_planes);
    check_scaled({5, 2, 33, 768, 256, 33, 1, true}, cuda::matmul_planes);
    check_scaled({1, 1, 40, 480, 480, 9, 0, false, true}, cuda::matmul_planes);
    check_scaled({4, 4, 9, 96, 96, 0}, cuda::matmul_planes);
    cuda::MatmulPlanes problem{};
    problem.weight.layout = LayoutId::k_affine, problem.weight.params = {4, 32, ScaleType::kF16};
    problem.weight.cols = 64, problem.x_bits = 4, problem.tokens = 8;
    CHECK_FALSE(cuda::supports_matmul_planes(problem));
    problem.weight.layout = LayoutId::k_bipolar;
    CHECK(cuda::supports_matmul_planes(problem));
    problem.x += 1;  // not at 16 bytes
    CHECK_FALSE(cuda::supports_matmul_planes(problem));
}

}  // namespace thimble::cuda_test
