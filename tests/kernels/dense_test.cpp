// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/dense/gemm.h"
#include "operation.h"

using namespace thimble;
using namespace thimble::test;

namespace {

struct Shape {
    std::int64_t tokens, out, in;
};
// One row, ragged, more than one tile each way, low ranks both ways, no token.
const Shape kShapes[] = {{1, 1, 256},  {5, 37, 256},  {67, 70, 768},
                         {0, 16, 256}, {600, 8, 256}, {33, 300, 256}};

Values rounded(Values v) {
    for (double& x : v) x = static_cast<double>(bf16_to_f32(f32_to_bf16(static_cast<float>(x))));
    return v;
}
Values sizes_of(Values v) {
    for (double& x : v) x = std::abs(x);
    return v;
}

// c[i][j] = sum over l of a[i][l] b[l][j]
Values times(const Values& a, const Values& b, std::int64_t m, std::int64_t k, std::int64_t n) {
    Values c(static_cast<std::size_t>(m * n));
    for (std::int64_t i = 0; i < m; ++i) {
        for (std::int64_t l = 0; l < k; ++l) {
            const double x = a[static_cast<std::size_t>(i * k + l)];
            for (std::int64_t j = 0; j < n; ++j)
                c[static_cast<std::size_t>(i * n + j)] +=
                    x * b[static_cast<std::size_t>(l * n + j)];
        }
    }
    return c;
}
Values turned(const Values& a, std::int64_t rows, std::int64_t cols) {
    Values out(a.size());
    for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = 0; c < cols; ++c)
            out[static_cast<std::size_t>(c * rows + r)] = a[static_cast<std::size_t>(r * cols + c)];
    }
    return out;
}

// Runs `operation(machine, rows of a, rows of b)` on the reference device and on every level, each
// in F32 and BF16, against start + a b computed here.
struct Expected {
    Values values, bounds;
};
Expected expect(Values a, Values b, std::int64_t m, std::int64_t k, std::int64_t n, double start,
                bool bf16) {
    if (bf16) a = rounded(a), b = rounded(b);
    Expected e{times(a, b, m, k, n), times(sizes_of(a), sizes_of(b), m, k, n)};
    for (double& x : e.values) x += start;
    // A sum of k products in any order is off by at most k epsilon of their sizes; its root, four
    // times, holds with room.
    const double factor = kEpsilon * (4 * std::sqrt(static_cast<double>(k)) + 4);
    for (double& x : e.bounds) x = factor * (x + std::abs(start) + 1e-3);
    return e;
}

using Run = std::function<Values(Machine&)>;
void check(const Run& run, const Values& a, const Values& b, std::int64_t m, std::int64_t k,
           std::int64_t n, double start) {
    Machine reference(Isa::kPortable, 2, std::size_t{1} << 16, Device::kRef);
    const Values exact = run(reference);
    const Expected plain = expect(a, b, m, k, n, start, false);
    REQUIRE(exact.size() == plain.values.size());
    bool same = true;  // but for the order of the sums in double
    for (std::size_t i = 0; i < exact.size(); ++i)
        same = same && std::abs(exact[i] - plain.values[i]) <= 1e-8 * plain.bounds[i];
    CHECK(same);
    for (const bool bf16 : {false, true}) {
        const Expected expected = bf16 ? expect(a, b, m, k, n, start, true) : plain;
        for (const Isa isa : levels_from_best()) {
            CAPTURE(name(isa));
            CAPTURE(bf16);
            Values first;
            for (const int threads : {1, 2, 3}) {
                Machine machine(isa, threads, std::size_t{4} << 20);
                machine.exec.products = Products::kDense;
                machine.exec.activations = bf16 ? Activations::kBf16 : Activations::kF32;
                const Values got = run(machine);
                if (threads > 1) {
                    CHECK(got == first);
                    continue;
                }
                first = got;
                bool close = true;
                for (std::size_t i = 0; i < got.size(); ++i)
                    close = close && std::abs(got[i] - expected.values[i]) <= expected.bounds[i];
                CHECK(close);
            }
        }
    }
}

// Leaves in the workspace just what a plan grants.
struct Granted {
    Granted(Machine& m, std::size_t bytes) : workspace(m.workspace) {
        m.poison();
        (void)workspace.take((workspace.capacity() - bytes) & ~std::size_t{63});
    }
    ~Granted() { workspace.rewind(0); }
    Workspace& workspace;
};

Values forward(Machine& m, const PackedView& weight, const Values& x, std::int64_t tokens,
               const Values& bias, double start) {
    const Shape2 shape = weight.shape;
    const Granted granted(
        m, ops::matmul_input_bytes(m.exec, tokens, shape.cols) + ops::matmul_bytes(m.exec, shape));
    Guarded in = placed(m.exec, x, tokens, shape.cols);
    Guarded out = placed(m.exec, Values(static_cast<std::size_t>(tokens * shape.rows), start),
                         tokens, shape.rows);
    Guarded b = placed(m.exec, bias, 1, std::ssize(bias));
    ops::MatmulInput input(m.exec, in.view());
    ops::Matmul problem{weight, out.view(), std::nullopt, start != 0};
    if (!bias.empty()) problem.bias = b.view();
    ops::matmul(m.exec, input, problem);
    return values_of(out);
}

Values backward(Machine& m, const PackedView& weight, const Values& dy, std::int64_t tokens,
                double start) {
    const Shape2 shape = weight.shape;
    const Granted granted(m, ops::matmul_input_bytes(m.exec, tokens, shape.rows) +
                                 ops::matmul_t_bytes(m.exec, shape));
    Guarded from = placed(m.exec, dy, tokens, shape.rows);
    Guarded dx = placed(m.exec, Values(static_cast<std::size_t>(tokens * shape.cols), start),
                        tokens, shape.cols);
    ops::MatmulInput input(m.exec, from.view());
    ops::matmul_t(m.exec, input, weight, dx.view(), start != 0);
    return values_of(dx);
}

Values gradient(Machine& m, const Values& dy, const Values& x, const Shape& s, double start) {
    const Granted granted(m, ops::matmul_input_bytes(m.exec, s.tokens, s.out) +
                                 ops::matmul_input_bytes(m.exec, s.tokens, s.in));
    Guarded from = placed(m.exec, dy, s.tokens, s.out), at = placed(m.exec, x, s.tokens, s.in);
    Guarded dw = placed(m.exec, Values(static_cast<std::size_t>(s.out * s.in), start), s.out, s.in);
    ops::MatmulInput one(m.exec, from.view()), two(m.exec, at.view());
    ops::weight_gradient(m.exec, one, two, dw.view());
    return values_of(dw);
}

}  // namespace

TEST_CASE("dense products agree with double in every layout") {
    for (const auto& one : layouts_and_seeds()) {
        const LayoutId layout = one.first;
        CAPTURE(layout_info(layout).name);
        const Shape s = {5, 37, 768};
        const Matrix w = make_matrix(layout, {s.out, s.in}, one.second);
        const Values x = random_values(20, s.tokens * s.in),
                     dy = random_values(21, s.tokens * s.out);
        check([&](Machine& m) { return forward(m, w.view, x, s.tokens, {}, 0); }, x,
              turned(w.values, s.out, s.in), s.tokens, s.in, s.out, 0);
        check([&](Machine& m) { return backward(m, w.view, dy, s.tokens, 0); }, dy, w.values,
              s.tokens, s.out, s.in, 0);
    }
}

TEST_CASE("dense products: shapes, from zero and added") {
    for (const Shape& s : kShapes) {
        for (const double start : {0.0, 2.5}) {
            CAPTURE(s.tokens);
            CAPTURE(s.out);
            CAPTURE(start);
            const Values x = random_values(22, s.tokens * s.in);
            const Values dy = random_values(23, s.tokens * s.out);
            for (const LayoutId layout : {LayoutId::k_f32, LayoutId::k_bf16, LayoutId::k_q4_k}) {
                const Matrix w = make_matrix(layout, {s.out, s.in}, 24);
                check([&](Machine& m) { return forward(m, w.view, x, s.tokens, {}, start); }, x,
                      turned(w.values, s.out, s.in), s.tokens, s.in, s.out, start);
                check([&](Machine& m) { return backward(m, w.view, dy, s.tokens, start); }, dy,
                      w.values, s.tokens, s.out, s.in, start);
            }
            check([&](Machine& m) { return gradient(m, dy, x, s, start); },
                  turned(dy, s.tokens, s.out), x, s.out, s.tokens, s.in, start);
        }
    }
}

TEST_CASE("dense products: a bias is added once, panels follow each other") {
    // More rows than one panel holds.
    const Shape s = {3, 2 * 4096 + 100, 256};
    const Matrix w = make_matrix(LayoutId::k_q4_0, {s.out, s.in}, 25);
    const Values x = random_values(26, s.tokens * s.in), dy = random_values(27, s.tokens * s.out);
    const Values bias = random_values(28, s.out);
    for (const double start : {0.0, 1.0}) {
        Machine reference(Isa::kPortable, 2, std::size_t{1} << 16, Device::kRef);
        const Values expected = forward(reference, w.view, x, s.tokens, bias, start);
        Machine m(best_isa(), 2, std::size_t{16} << 20);
        m.exec.products = Products::kDense, m.exec.activations = Activations::kF32;
        const Values got = forward(m, w.view, x, s.tokens, bias, start);
        double worst = 0;
        for (std::size_t i = 0; i < got.size(); ++i)
            worst = std::max(worst, std::abs(got[i] - expected[i]));
        CHECK(worst < 1e-4);
        const Values back = backward(m, w.view, dy, s.tokens, start);
        const Values back_expected = backward(reference, w.view, dy, s.tokens, start);
        worst = 0;
        for (std::size_t i = 0; i < back.size(); ++i)
            worst = std::max(worst, std::abs(back[i] - back_expected[i]));
        CHECK(worst < 1e-3);
    }
}

TEST_CASE("dense products: sliced views give the bits of whole ones") {
    // A view whose rows lie apart is what Guarded makes; here the weights' rows do too.
    const Matrix w = make_matrix(LayoutId::k_f32, {20, 64}, 29);
    std::vector<float> apart(20 * 80, std::numeric_limits<float>::quiet_NaN());
    for (std::size_t r = 0; r < 20; ++r)
        std::memcpy(&apart[r * 80], w.bytes.data() + r * 64 * sizeof(float), 64 * sizeof(float));
    PackedView view = w.view;
    view.planes[0] = {reinterpret_cast<const std::byte*>(apart.data()), 80 * sizeof(float),
                      apart.size() * sizeof(float)};
    const Values x = random_values(30, 7 * 64);
    Machine m(best_isa());
    m.exec.products = Products::kDense, m.exec.activations = Activations::kF32;
    CHECK(forward(m, view, x, 7, {}, 0) == forward(m, w.view, x, 7, {}, 0));
}

TEST_CASE("dense products need stored layouts, and the backward needs dense products") {
    const Matrix w = make_matrix(LayoutId::k_q4_0, {32, 64}, 31);
    Machine m(best_isa());
    std::vector<std::byte> bytes(ops::packed_bytes(LayoutId::k_q4_0_x16, {32, 64}));
    const PackedView resident = ops::repack(m.exec, w.view, LayoutId::k_q4_0_x16, bytes.data());
    const Values x = random_values(32, 2 * 64), dy = random_values(33, 2 * 32);
    CHECK_THROWS_WITH(backward(m, w.view, dy, 2, 0), doctest::Contains("dense products"));
    m.exec.products = Products::kDense;
    CHECK_THROWS_WITH(forward(m, resident, x, 2, {}, 0), doctest::Contains("stored layout"));
}

TEST_CASE("dense products keep to the level that a process asks for first") {
    // Under CTest this case is alone in its process.
    if (cpu::limit_gemm(Isa::kPortable) != Isa::kPortable) return;
    CHECK_FALSE(cpu::gemm_has_bf16());
    const Matrix w = make_matrix(LayoutId::k_bf16, {33, 256}, 34);
    const Values x = random_values(35, 9 * 256);
    check([&](Machine& m) { return forward(m, w.view, x, 9, {}, 0); }, x, turned(w.values, 33, 256),
          9, 256, 33, 0);
    CHECK_FALSE(cpu::gemm_has_bf16());
}
