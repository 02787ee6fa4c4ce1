// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>

#include "harness.h"
#include "kernels/layout/nf4.h"

using namespace thimble;
using namespace thimble::test;

namespace {

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

// The codebook types have none.
bool has_resident(const Matrix& matrix) {
    return ops::resident_layout(matrix.view.layout, matrix.view.params).has_value();
}

// The matrix as it stands or in its resident layout.
struct Placed {
    Placed(Machine& m, const Matrix& matrix, bool resident) : view(matrix.view) {
        if (!resident || !has_resident(matrix)) return;
        const LayoutId layout = *ops::resident_layout(view.layout, view.params);
        // NaN where nothing is written.
        bytes.assign(ops::packed_bytes(layout, view.shape, view.params), std::byte{0xff});
        view = ops::repack(m.exec, view, layout, bytes.data());
    }
    std::vector<std::byte> bytes;
    PackedView view;
};

std::vector<std::pair<Isa, bool>> ways() {
    std::vector<std::pair<Isa, bool>> out;
    for (const Isa isa : levels()) out.emplace_back(isa, false), out.emplace_back(isa, true);
    return out;
}

double norm(const double* x, std::int64_t n) {
    double sum = 0;
    for (std::int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
    return std::sqrt(sum);
}

}  // namespace

TEST_CASE("matmul: every layout and level agrees with double") {
    for (const auto& [layout, seed] : layouts_and_seeds()) {
        for (const std::int64_t rows : {1, 16, 37, 70}) {  // 70: more than one task takes
            for (const std::int64_t cols : {256, 768, 1280}) {
                if (has_planes(layout) && (rows != 37 || cols == 1280)) continue;  // many forms
                CAPTURE(layout_info(layout).name);
                CAPTURE(rows);
                CAPTURE(cols);
                const Matrix w = make_matrix(layout, {rows, cols}, seed);
                CAPTURE(w.view.params.bits);
                const std::int64_t tokens = 11;  // eight, two and one at a time
                const std::vector<float> x = Random(101).normals(tokens * cols);
                const std::vector<float> bias = Random(102).normals(rows);
                for (const bool accumulate : {false, true}) {
                    Machine oracle(Isa::kPortable, 1, 1 << 20, Device::kRef);
                    Guarded expected = run(oracle, w.view, x, tokens, bias, accumulate);
                    for (const auto& [isa, resident] : ways()) {
                        if (resident && !has_resident(w)) continue;
                        CAPTURE(name(isa));
                        CAPTURE(resident);
                        Machine m(isa);
                        m.exec.activations = Activations::kF32;
                        const Placed placed(m, w, resident);
                        Guarded got = run(m, placed.view, x, tokens, bias, accumulate);
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

// What 8-bit input stands for: blocks of 32, scale = largest / 127, codes to nearest, ties to even.
static std::vector<float> through_i8(const std::vector<float>& x) {
    std::vector<float> out(x.size());
    for (std::size_t b = 0; b < x.size(); b += 32) {
        float largest = 0;
        for (std::size_t i = b; i < b + 32; ++i) largest = std::max(largest, std::abs(x[i]));
        const float scale = largest / 127.0f, inverse = largest > 0 ? 127.0f / largest : 0.0f;
        for (std::size_t i = b; i < b + 32; ++i) out[i] = scale * std::nearbyint(x[i] * inverse);
    }
    return out;
}

// What rounding a table's values to 16 bits may change an output by: half a unit of each weight.
static double table_bound(const Matrix& w, std::int64_t r, const std::vector<double>& x) {
    if (w.view.layout != LayoutId::k_nf4) return 0;
    using L = Layout<LayoutId::k_nf4>;
    const PackedRow row = w.view.packed_row(r);
    const auto* values = static_cast<const float*>(row.planes[L::kValues]);
    float largest = 0;
    for (int i = 0; i < 16; ++i) largest = std::max(largest, std::abs(values[i]));
    double sum = 0;
    for (std::size_t k = 0; k < x.size(); ++k)
        sum += std::abs(x[k] * static_cast<double>(L::peak_at(
                                   row, static_cast<std::int64_t>(k) / w.view.params.group)));
    return sum * static_cast<double>(largest) / (2 * 32639);
}

TEST_CASE("matmul: 8-bit input multiplies codes exactly, values of a table as 16 bits") {
    for (const auto& [layout, seed] : layouts_and_seeds()) {
        if (layout_info(layout).block_elements == 1 || layout == LayoutId::k_fp8) continue;
        for (const std::int64_t rows : {1, 37, 130}) {
            if (has_planes(layout) && rows != 37) continue;  // many forms
            CAPTURE(layout_info(layout).name);
            CAPTURE(rows);
            const std::int64_t cols = 768, tokens = 11;
            const Matrix w = make_matrix(layout, {rows, cols}, seed);
            CAPTURE(w.view.params.bits);
            if (!has_resident(w) || (layout == LayoutId::k_sparse && w.view.params.bits == 16))
                continue;
            std::vector<float> x = Random(106).normals(tokens * cols);
            for (std::size_t i = 0; i < 32; ++i) x[i] = 0;         // a block of zeros
            for (std::size_t i = 64; i < 96; ++i) x[i] *= 1e-35f;  // too small for any code
            for (std::size_t i = 128; i < 160; ++i) x[i] = i % 2 ? -3.5f : 3.5f;  // extreme codes
            std::vector<float> rounded = through_i8(x);
            for (std::size_t i = 64; i < 96; ++i) rounded[i] = 0;
            Machine oracle(Isa::kPortable, 1, 1 << 20, Device::kRef);
            Guarded expected = run(oracle, w.view, rounded, tokens, {}, false);
            for (const Isa isa : levels()) {
                CAPTURE(name(isa));
                Machine m(isa);
                m.exec.activations = Activations::kI8;
                const Placed placed(m, w, true);
                Guarded got = run(m, placed.view, x, tokens, {}, false);
                for (std::int64_t t = 0; t < tokens; ++t) {
                    const std::vector<double> xt(rounded.begin() + t * cols,
                                                 rounded.begin() + (t + 1) * cols);
                    for (std::int64_t r = 0; r < rows; ++r) {
                        // Each block's exact sum is scaled with two roundings and added with one;
                        // offsets and minima make terms a few times as large as the products.
                        const double bound =
                            16 * kEpsilon *
                                norm(&w.values[static_cast<std::size_t>(r * cols)], cols) *
                                norm(xt.data(), cols) +
                            table_bound(w, r, xt);
                        REQUIRE((std::abs(got.at(t, r) - expected.at(t, r)) <= bound));
                    }
                }
            }
        }
    }
}

TEST_CASE("matmul: a NaN or infinity in the input shows in every output of its token") {
    const Matrix w = make_matrix(LayoutId::k_q4_0, {20, 256}, 107);
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        std::vector<float> x = Random(108).normals(2 * 256);
        x[256 + 77] = bad;
        for (const Isa isa : levels()) {
            Machine m(isa);
            m.exec.activations = Activations::kI8;
            const Placed placed(m, w, true);
            Guarded got = run(m, placed.view, x, 2, {}, false);
            for (std::int64_t r = 0; r < 20; ++r) {
                CHECK(std::isfinite(got.at(0, r)));
                CHECK(!std::isfinite(got.at(1, r)));
            }
        }
    }
}

TEST_CASE("matmul: a row's bits do not depend on threads, batch size or chunk") {
    for (const auto& [layout, seed] : layouts_and_seeds()) {
        CAPTURE(layout_info(layout).name);
        const std::int64_t rows = 150, cols = 512, tokens = 17;
        const Matrix w = make_matrix(layout, {rows, cols}, seed);
        const std::vector<float> x = Random(111).normals(tokens * cols);
        for (const auto& [isa, resident] : ways()) {
            if (resident && !has_resident(w)) continue;
            CAPTURE(name(isa));
            CAPTURE(resident);
            for (const Activations kind :
                 {Activations::kF32, Activations::kBf16, Activations::kI8}) {
                if (!resident && kind != Activations::kF32) continue;
                Machine one(isa, 1), two(isa, 2), three(isa, 3);
                one.exec.activations = two.exec.activations = three.exec.activations = kind;
                const Placed placed(three, w, resident);
                Guarded whole = run(one, placed.view, x, tokens, {}, false);
                Guarded whole2 = run(two, placed.view, x, tokens, {}, false);
                CHECK(whole.same_bits(whole2));
                for (const std::int64_t batch : {1, 2, 3, 5, 8, 16}) {
                    for (std::int64_t first = 0; first < tokens; first += batch) {
                        const std::int64_t n = std::min(batch, tokens - first);
                        const std::vector<float> part(x.begin() + first * cols,
                                                      x.begin() + (first + n) * cols);
                        Guarded out = run(three, placed.view, part, n, {}, false);
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
}

TEST_CASE("matmul: matrices that share an input give the bits they give alone") {
    Machine m(best_isa());
    const std::int64_t cols = 512, tokens = 3;
    const std::vector<float> x = Random(112).normals(tokens * cols);
    Guarded in(m.exec, x, tokens);
    const LayoutId layouts[] = {LayoutId::k_q4_0, LayoutId::k_q6_k, LayoutId::k_f16};
    std::vector<Matrix> matrices;
    std::vector<Placed> placed;
    std::vector<Guarded> together, alone;
    for (const LayoutId layout : layouts) {
        const std::int64_t rows = 16 * std::ssize(matrices) + 33;
        matrices.push_back(make_matrix(layout, {rows, cols}, 113));
        placed.emplace_back(m, matrices.back(), true);
        together.emplace_back(DType::kF32, tokens, rows);
        alone.push_back(run(m, placed.back().view, x, tokens, {}, false));
    }
    std::vector<ops::Matmul> problems;
    for (std::size_t i = 0; i < 3; ++i)
        problems.push_back({placed[i].view, together[i].view(), {}, false});
    ops::MatmulInput input(m.exec, in.view());
    ops::matmul(m.exec, input, problems);
    for (std::size_t i = 0; i < 3; ++i) CHECK(together[i].same_bits(alone[i]));
}

TEST_CASE("matmul: codes that name floats read float input, whatever is asked for") {
    for (const Isa isa : levels()) {
        Machine m(isa);
        for (const Activations kind : {Activations::kAuto, Activations::kF32, Activations::kI8}) {
            m.exec.activations = kind;
            CHECK(ops::activations_for(LayoutId::k_fp8_x16, m.exec) == Activations::kF32);
            CHECK(ops::activations_for(LayoutId::k_mxfp8_x16, m.exec) == Activations::kF32);
        }
        m.exec.activations = Activations::kBf16;
        CHECK(ops::activations_for(LayoutId::k_fp8_x16, m.exec) == Activations::kBf16);
        m.exec.activations = Activations::kI8;
        CHECK(ops::activations_for(LayoutId::k_nf4_64_x16, m.exec) == Activations::kI8);
        CHECK(ops::activations_for(LayoutId::k_affine4_64_x16, m.exec) == Activations::kI8);
    }
}

TEST_CASE("groups of whole 32 columns with half-precision scales have a resident layout") {
    const auto resident = [](LayoutParams params) {
        return ops::resident_layout(LayoutId::k_affine, params);
    };
    CHECK(resident({4, 128, ScaleType::kF16}) == LayoutId::k_affine4_64_x16);
    CHECK(resident({4, 32, ScaleType::kBF16}) == LayoutId::k_affine4_32_x16);
    CHECK(resident({4, 96, ScaleType::kF16}) == LayoutId::k_affine4_32_x16);
    CHECK(resident({5, 64, ScaleType::kF16}) == LayoutId::k_affine6_64_x16);
    CHECK(resident({7, 64, ScaleType::kF16}) == LayoutId::k_affine8_64_x16);
    CHECK_FALSE(resident({4, 128, ScaleType::kF32}));
    CHECK_FALSE(resident({4, 48, ScaleType::kF16}));
    CHECK_FALSE(resident({4, 0, ScaleType::kF16}));  // a table says which group a column is of
}

TEST_CASE("repack keeps every value, whole or piece by piece") {
    for (const auto& [layout, seed] : layouts_and_seeds()) {
        CAPTURE(layout_info(layout).name);
        const Shape2 shape = {2 * ops::kRepackRows + 5, 512};
        const Matrix w = make_matrix(layout, shape, seed);
        if (!has_resident(w)) continue;
        Machine m(Isa::kPortable);
        const Placed whole(m, w, true);
        CHECK(whole.view.bytes() == whole.bytes.size());
        std::vector<double> decoded(static_cast<std::size_t>(shape.cols));
        Machine oracle(Isa::kPortable, 1, 1 << 20, Device::kRef);
        for (std::int64_t r = 0; r < shape.rows; ++r) {
            ops::decode_rows(oracle.exec, whole.view, {r, 1},
                             {decoded.data(), DType::kF64, 1, shape.cols, shape.cols});
            REQUIRE(std::equal(decoded.begin(), decoded.end(), w.values.begin() + r * shape.cols));
        }
        PackedView padded = whole.view;
        padded.shape.rows = (shape.rows + 15) / 16 * 16;
        for (std::int64_t r = shape.rows; r < padded.shape.rows; ++r) {
            ops::decode_rows(oracle.exec, padded, {r, 1},
                             {decoded.data(), DType::kF64, 1, shape.cols, shape.cols});
            REQUIRE(std::all_of(decoded.begin(), decoded.end(),
                                [](double v) { return std::fabs(v) < 0x1p-100; }));
        }
        std::vector<std::byte> pieces(whole.bytes.size(), std::byte{0xff});
        for (std::int64_t r = 0; r < shape.rows; r += ops::kRepackRows) {
            const std::int64_t count = std::min(ops::kRepackRows, shape.rows - r);
            (void)ops::repack(m.exec, w.view.slice_rows({r, count}), whole.view.layout,
                              pieces.data() + ops::packed_bytes(whole.view.layout, {r, shape.cols},
                                                                w.view.params));
        }
        CHECK(pieces == whole.bytes);
    }
}

TEST_CASE("embed reads scaled rows of any layout") {
    for (const auto& [layout, seed] : layouts_and_seeds()) {
        const Matrix table = make_matrix(layout, {19, 256}, seed);
        const std::vector<std::int32_t> tokens = {18, 0, 7, 7};
        for (const Isa isa : levels()) {
            Machine m(isa);
            Guarded out(DType::kF32, 4, 256);
            const Placed placed(m, table, isa == Isa::kPortable);
            ops::embed(m.exec, placed.view, tokens, 16.0, out.view());
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
