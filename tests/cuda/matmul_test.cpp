// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "matmul_cases.h"

namespace thimble::cuda_test {

void check_matmul() {
    for (const PackedForm& form : packed_forms()) {
        const bool blocks = layout_info(form.layout).block_elements > 1;
        check_matmul_case({form, 70, blocks ? 256 : 45, 5, 1, 2, true, true}, cuda::matmul);
    }
    const PackedForm form{LayoutId::k_q4_1, {}};
    const auto many = check_matmul_case({form, 130, 96, 67}, cuda::matmul);
    const auto one = check_matmul_case({form, 130, 96, 1}, cuda::matmul);
    CHECK(std::equal(one.begin(), one.end(), many.begin()));
    CHECK(check_matmul_case({form, 130, 96, 0}, cuda::matmul).empty());
    check_matmul_case({form, 1, 32, 1}, cuda::matmul);
}

}  // namespace thimble::cuda_test
