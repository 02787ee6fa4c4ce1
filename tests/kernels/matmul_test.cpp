// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "harness.h"

using namespace thimble;
using namespace thimble::test;

namespace {

const LayoutId kStored[] = {LayoutId::k_f32,  LayoutId::k_f16,  LayoutId::k_bf16, LayoutId::k_q4_0,
                            LayoutId::k_q4_1, LayoutId::k_q5_0, LayoutId::k_q5_1, LayoutId::k_q8_0,
                            LayoutId::k_q4_k, LayoutId::k_q5_k, LayoutId::k_q6_k};

Guarded run(Machine& m, const PackedView& weight, const std::vector<float>& x, std::int64_t tokens,
            const std::vector<float>& bias, bool accumulate) {
    m.poison();
    Guarded in(m.exec, x, tokens), out(m.exec.dtype(), tokens, weight.shape.rows);
    Guarded b(m.exec, bias, 1);
    for (std::int64_t t = 0; accumulate && t < tokens; ++t) {
        for (std::int64_t r = 0; r < weight.shape.rows; ++r)
            out.set(t, r, static_cast<double>(r % 5) - 2);
    }
    ops::MatmulInput input(m.exec, in.view());
    ops::Matmul problem{weight, out.view(), std::nullopt, accumulate};
    if (!bias.empty()) problem.bias = b.view();
    ops::matmul(m.exec, input, problem);
    CHECK(out.guards_hold());
    return out;
}

double norm(const double* x, std::int64_t n) {
    double sum = 0;
    for (std::int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
    return std::sqrt(sum);
}

}  // namespace

TEST_CASE("matmul: every layout and level agrees with double") {
    for (const LayoutId layout : kStored) {
        for (const std::int64_t rows : {1, 15, 16, 37}) {
            for (const std::int64_t cols : {256, 768, 1280}) {
                CAPTURE(layout_info(layout).name);
                CAPTURE(rows);
                CAPTURE(cols);
                const Matrix w = make_matrix(layout, {rows, cols}, 100);
                const std::int64_t tokens = 5;
                const std::vector<float> x = Random(101).normals(tokens * cols);
                const std::vector<float> bias = Random(102).normals(rows);
                for (const bool accumulate : {false, true}) {
                    Machine oracle(Isa::kPortable, 1, 1 << 20, Device::kRef);
                    Guarded expected = run(oracle, w.view, x, tokens, bias, accumulate);
                    for (const Isa isa : levels()) {
                        CAPTURE(name(isa));
                        Machine m(isa);
                        m.exec.activations = Activations::kF32;
                        Guarded got = run(m, w.view, x, tokens, bias, accumulate);
                        for (std::int64_t t = 0; t < tokens; ++t) {
                            std::vector<double> xt(x.begin() + t * cols,
                                                   x.begin() + (t + 1) * cols);
                            for (std::int64_t r = 0; r < rows; ++r) {
                                // Rounding of a sum of n products grows like its length; 4 sqrt(n)
                                // holds with room for the worst seen order, plus bias and sum.
                                const double bound =
                                    kEpsilon *
                                    (4 * std::sqrt(static_cast<double>(cols)) *
                                         norm(&w.values[static_cast<std::size_t>(r * cols)], cols) *
                                         norm(xt.data(), cols) /
                                         std::sqrt(static_cast<double>(cols)) +
                                     8);
                                const double error = std::abs(got.at(t, r) - expected.at(t, r));
                                REQUIRE((error <= bound));
                            }
                        }
                    }
                }
            }
        }
    }
}

TEST_CASE("matmul: a row's bits do not depend on threads, batch size or chunk") {
    for (const LayoutId layout : kStored) {
        CAPTURE(layout_info(layout).name);
        const std::int64_t rows = 100, cols = 512, tokens = 17;
        const Matrix w = make_matrix(layout, {rows, cols}, 110);
        const std::vector<float> x = Random(111).normals(tokens * cols);
        for (const Isa isa : levels()) {
            CAPTURE(name(isa));
            Machine one(isa, 1), two(isa, 2), three(isa, 3);
            Guarded whole = run(one, w.view, x, tokens, {}, false);
            Guarded whole2 = run(two, w.view, x, tokens, {}, false);
            CHECK(whole.same_bits(whole2));
            for (const std::int64_t batch : {1, 2, 3, 4, 5, 7, 8, 16}) {
                for (std::int64_t first = 0; first < tokens; first += batch) {
                    const std::int64_t n = std::min(batch, tokens - first);
                    const std::vector<float> part(x.begin() + first * cols,
                                                  x.begin() + (first + n) * cols);
                    Guarded out = run(three, w.view, part, n, {}, false);
                    bool same = true;
                    for (std::int64_t t = 0; t < n; ++t) {
                        for (std::int64_t r = 0; r < rows; ++r)
                            same = same && out.at(t, r) == whole.at(first + t, r);
                    }
                    REQUIRE(same);
                }
            }
        }
    }
}

TEST_CASE("embed reads scaled rows of any layout") {
    for (const LayoutId layout : kStored) {
        const Matrix table = make_matrix(layout, {19, 256}, 120);
        const std::vector<std::int32_t> tokens = {18, 0, 7, 7};
        for (const Isa isa : levels()) {
            Machine m(isa);
            Guarded out(DType::kF32, 4, 256);
            ops::embed(m.exec, table.view, tokens, 16.0, out.view());
            CHECK(out.guards_hold());
            for (std::int64_t t = 0; t < 4; ++t) {
                for (std::int64_t c = 0; c < 256; ++c) {
                    const double expected =
                        16 * table.values[static_cast<std::size_t>(
                                 tokens[static_cast<std::size_t>(t)] * 256 + c)];
                    REQUIRE((std::abs(out.at(t, c) - expected) <=
                             4 * kEpsilon * (std::abs(expected) + 0.1)));
                }
            }
        }
    }
}
