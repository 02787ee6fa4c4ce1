// SPDX-License-Identifier: Apache-2.0
// Sparse weights multiply as the dense matrix with zeros does, bit for bit: as they are stored and
// in their resident layout, at every level, for any number of tokens.
#include <doctest/doctest.h>

#include <vector>

#include "tests/kernels/harness.h"

using namespace thimble;
using namespace thimble::test;

TEST_CASE("sparse matmul has the bits of the dense matrix with zeros") {
    for (const char* type : {"bf16", "f16"}) {
        const Shape2 shape{87, 352};
        std::vector<float> weights = Random(51).normals(shape.rows * shape.cols, 0.05F);
        prune_rows(weights, shape.cols, 51);
        weights[353] = 0x1p-24F;  // a subnormal half
        const Matrix dense = encode_matrix(make_format(type, "test"), shape, weights);
        const Matrix sparse = encode_matrix(
            make_format(std::string("sparse:values=") + type, "test"), shape, weights);
        CHECK(sparse.view.layout == LayoutId::k_sparse);
        for (const Isa isa : levels()) {
            for (const bool resident : {false, true}) {
                for (const std::int64_t tokens : {1, 2, 4, 11}) {
                    CAPTURE(name(isa));
                    CAPTURE(resident);
                    CAPTURE(tokens);
                    Machine m(isa);
                    Guarded in(m.exec, Random(52).normals(tokens * shape.cols), tokens);
                    std::vector<Guarded> outs;
                    std::vector<std::vector<std::byte>> places;
                    for (const Matrix* w : {&dense, &sparse}) {
                        PackedView view = w->view;
                        if (resident) {
                            const LayoutId layout = *ops::resident_layout(view.layout, view.params);
                            places.emplace_back(ops::packed_bytes(layout, shape, view.params),
                                                std::byte{0xff});
                            view = ops::repack(m.exec, view, layout, places.back().data());
                        }
                        outs.emplace_back(m.exec.dtype(), tokens, shape.rows);
                        ops::MatmulInput input(m.exec, in.view());
                        ops::matmul(m.exec, input, {view, outs.back().view(), std::nullopt, false});
                        CHECK(outs.back().guards_hold());
                    }
                    CHECK(outs[0].same_bits(outs[1]));
                }
            }
        }
    }
}

TEST_CASE("a resident sparse layout asks how many weights a row keeps") {
    CHECK_THROWS_AS((void)ops::packed_bytes(LayoutId::k_sparse_x16, {16, 64}), Error);
    LayoutParams params{16, 0, ScaleType::kBF16};
    params.slots = 32;
    CHECK(ops::packed_bytes(LayoutId::k_sparse_x16, {17, 64}, params) ==
          2 * (2 * 64 + 16 * 32 * 2 + 64));
}
