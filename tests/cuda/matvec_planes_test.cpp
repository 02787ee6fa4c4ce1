// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "planes_cases.h"

namespace thimble::cuda_test {

void check_matvec_planes() {
    check_widths(3, cuda::matvec_planes);
    // More tiles than a warp has lanes; every number of tokens.
    std::vector<float> most;
    for (const std::int64_t tokens : {8, 1, 2, 3, 4, 5, 6, 7}) {
        const auto got = check_scaled({3, 4, 11, 1120, 160, tokens}, cuda::matvec_planes);
        if (tokens == 8) most = got;
        CHECK(std::equal(got.begin(), got.end(), most.begin()));
        check_scaled({2, 8, 9, 576, 64, tokens, 3, true, true}, cuda::matvec_planes);
    }
    check_scaled({4, 4, 9, 96, 32, 0}, cuda::matvec_planes);
    cuda::MatmulPlanes problem{};
    problem.weight.layout = LayoutId::k_bipolar, problem.weight.params = {4, 32, ScaleType::kF16};
    problem.weight.cols = 64, problem.x_bits = 4, problem.tokens = 8;
    CHECK(cuda::supports_matvec_planes(problem));
    const auto refuses = [&](auto change) {
        cuda::MatmulPlanes other = problem;
        change(other);
        return !cuda::supports_matvec_planes(other);
    };
    CHECK(refuses([](auto& p) { p.tokens = 9; }));
    CHECK(refuses([](auto& p) { p.x_bits = 9; }));
    CHECK(refuses([](auto& p) { p.x_bits = 0; }));
    CHECK(refuses([](auto& p) { p.weight.params.bits = 0; }));
    CHECK(refuses([](auto& p) { p.weight.cols = 48; }));
    CHECK(refuses([](auto& p) { p.weight.params.group = 48; }));
    CHECK(refuses([](auto& p) { p.weight.layout = LayoutId::k_affine; }));
}

}  // namespace thimble::cuda_test
