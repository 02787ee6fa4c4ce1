// SPDX-License-Identifier: Apache-2.0
#include "matmul_cases.h"

namespace thimble::cuda_test {

void check_matvec() {
    for (const PackedForm& form : packed_forms()) {
        const bool blocks = layout_info(form.layout).block_elements > 1;
        check_matmul_case({form, 9, blocks ? 1280 : 45, 2, 1, 2, true, true}, cuda::matvec);
        check_matmul_case({form, 1, 256, 1}, cuda::matvec);
    }
    check_tokens({LayoutId::k_q5_0, {}}, 3, 576, 1, cuda::matvec);
    check_tokens({LayoutId::k_f32, {}}, 3, 31, 1, cuda::matvec);
    cuda::Matmul problem{};
    problem.weight.layout = LayoutId::k_q4_0_x16, problem.weight.cols = 32, problem.tokens = 1;
    CHECK_FALSE(cuda::supports_matvec(problem));
    problem.weight.layout = LayoutId::k_q4_0;
    CHECK(cuda::supports_matvec(problem));
    problem.tokens = 9;
    CHECK_FALSE(cuda::supports_matvec(problem));
}

}  // namespace thimble::cuda_test
