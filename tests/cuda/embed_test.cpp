// SPDX-License-Identifier: Apache-2.0
#include "packed.h"

namespace thimble::cuda_test {
namespace {

void check_embedding(const PackedForm& form, std::int64_t cols,
                     const std::vector<std::int32_t>& tokens, std::int64_t gap, float factor) {
    CAPTURE(static_cast<int>(form.layout));
    CAPTURE(form.params.bits);
    const Packed packed(form, 7, cols, 11);
    const std::int64_t stride = cols + gap;
    const std::vector<float> marks(tokens.size() * static_cast<std::size_t>(stride), -77);
    const std::vector<float> got = run_all_orders([&] {
        const Array<std::int32_t> ids(tokens);
        const Array<float> out(marks);
        cuda::embed({packed.matrix(), ids.data(), out.data(), std::ssize(tokens), stride, factor},
                    stream());
        return out.get();
    });
    std::vector<double> want(got.size(), -77);
    for (std::size_t t = 0; t < tokens.size(); ++t) {
        const std::vector<double> row = packed.row(tokens[t]);
        for (std::size_t c = 0; c < row.size(); ++c)
            want[t * static_cast<std::size_t>(stride) + c] = static_cast<double>(factor) * row[c];
    }
    check_close(got, want, decoding_tolerance(want));
}

}  // namespace

void check_embed() {
    for (const PackedForm& form : packed_forms()) check_embedding(form, 256, {6, 0, 3, 3}, 4, 1);
    check_embedding({LayoutId::k_f16, {}}, 77, {2}, 0, 25.25f);
    check_embedding({LayoutId::k_q6_k, {}}, 512, {1}, 1, 25.25f);
    check_embedding({LayoutId::k_q4_0, {}}, 64, {}, 0, 1);
}

}  // namespace thimble::cuda_test
