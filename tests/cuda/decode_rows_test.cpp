// SPDX-License-Identifier: Apache-2.0
#include "kernels/layout/half.h"
#include "packed.h"

namespace thimble::cuda_test {
namespace {

void check_decoding(const PackedForm& form, std::int64_t cols, std::int64_t first,
                    std::int64_t count, std::int64_t gap) {
    CAPTURE(static_cast<int>(form.layout));
    CAPTURE(form.params.bits);
    CAPTURE(cols);
    const Packed packed(form, 5, cols, 7);
    const std::int64_t stride = cols + gap;
    const std::vector<float> marks(static_cast<std::size_t>(count * stride), -77);
    const std::vector<float> got = run_all_orders([&] {
        const Array<float> out(marks);
        cuda::decode_rows({packed.matrix(), first, count, out.data(), stride}, stream());
        return out.get();
    });
    std::vector<double> want(got.size(), -77);
    for (std::int64_t r = 0; r < count; ++r) {
        const std::vector<double> row = packed.row(first + r);
        std::copy(row.begin(), row.end(), want.begin() + r * stride);
    }
    check_close(got, want, decoding_tolerance(want));
    // Rounded, they are the bf16 of the floats.
    const std::vector<float> rounded = run_all_orders([&] {
        std::vector<std::uint16_t> halves(marks.size(), f32_to_bf16(-77));
        const Array<std::uint16_t> out(halves);
        cuda::decode_rows({packed.matrix(), first, count, nullptr, stride, out.data()}, stream());
        std::vector<float> floats;
        for (const std::uint16_t bits : out.get()) floats.push_back(bf16_to_f32(bits));
        return floats;
    });
    REQUIRE(rounded.size() == got.size());
    for (std::size_t i = 0; i < got.size(); ++i)
        REQUIRE(rounded[i] == bf16_to_f32(f32_to_bf16(got[i])));
}

}  // namespace

void check_decode_rows() {
    for (const PackedForm& form : packed_forms()) {
        check_decoding(form, 512, 2, 3, 0);
        check_decoding(form, 256, 0, 1, 3);
    }
    for (const LayoutId layout : {LayoutId::k_f32, LayoutId::k_f16, LayoutId::k_bf16}) {
        check_decoding({layout, {}}, 1, 0, 5, 1);
        check_decoding({layout, {}}, 45, 3, 2, 0);
    }
    check_decoding({LayoutId::k_q8_0, {}}, 32, 1, 0, 0);
}

}  // namespace thimble::cuda_test
