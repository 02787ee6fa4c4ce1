// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "matmul_cases.h"

namespace thimble::cuda_test {

void check_matmul_mma() {
    for (const PackedForm& form : packed_forms()) {
        if (form.layout == LayoutId::k_f32 || form.layout == LayoutId::k_f64) continue;
        const bool blocks = layout_info(form.layout).block_elements > 1;
        // Half of the last place of each factor; a weight of f16 is taken as it is.
        const double rounding = form.layout == LayoutId::k_f16 ? 0x1p-11 : 0x1p-8;
        check_matmul_case({form, 37, blocks ? 256 : 45, 5, 1, 2, true, true, rounding},
                          cuda::matmul_mma);
    }
    const PackedForm form{LayoutId::k_q8_0, {}};
    const auto many =
        check_matmul_case({form, 130, 96, 67, 0, 0, false, false, 0x1p-8}, cuda::matmul_mma);
    const auto one =
        check_matmul_case({form, 130, 96, 1, 0, 0, false, false, 0x1p-8}, cuda::matmul_mma);
    CHECK(std::equal(one.begin(), one.end(), many.begin()));
    check_matmul_case({form, 130, 96, 0}, cuda::matmul_mma);
    cuda::Matmul problem{};
    problem.weight.layout = LayoutId::k_f32, problem.weight.cols = 32;
    CHECK_FALSE(cuda::supports_matmul_mma(problem));
}

}  // namespace thimble::cuda_test
