// SPDX-License-Identifier: Apache-2.0
#include "operation.h"
#include "ops/dispatch.h"

using namespace thimble;
using namespace thimble::test;

namespace {

Values plus(Values a, double factor, const Values& b) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] += factor * b[i];
    return a;
}

struct Norm {
    std::int64_t rows, n;
    double eps = 1e-5;
    bool in_place = false, accumulates = false;

    [[nodiscard]] Operation operation() const {
        Operation op;
        op.inputs = {random_values(1, rows * n), random_values(2, n)};
        op.forward = [*this](Machine& m, const std::vector<Values>& in) {
            Guarded x = placed(m.exec, in[0], rows, n), w = placed(m.exec, in[1], 1, n);
            Guarded out(m.exec.dtype(), rows, n);
            ops::rms_norm(m.exec, x.view(), w.view(), eps, out.view());
            return values_of(out);
        };
        op.backward = [*this](Machine& m, const std::vector<Values>& in, const Values& up) {
            m.poison();
            Guarded x = placed(m.exec, in[0], rows, n), w = placed(m.exec, in[1], 1, n);
            Guarded dy = placed(m.exec, up, rows, n);
            const double start = accumulates ? 0.5 : 0;
            Guarded dx = placed(m.exec, Values(in[0].size(), start), rows, n);
            Guarded dw = placed(m.exec, Values(in[1].size(), start), 1, n);
            const View to_weight = dw.view();
            ops::rms_norm_backward(m.exec, x.view(), w.view(), eps, dy.view(),
                                   in_place ? dy.view() : dx.view(), &to_weight);
            CHECK(m.workspace.peak() >= ops::rms_norm_backward_bytes(m.exec, rows));
            return std::vector<Values>{values_of(in_place ? dy : dx), values_of(dw)};
        };
        return op;
    }
    // Sums of n (or of rows) products, each of few roundings.
    [[nodiscard]] std::vector<Values> bounds(const std::vector<Values>& in,
                                             const Values& dy) const {
        const auto at = [](const Values& v, std::int64_t i) {
            return std::abs(v[static_cast<std::size_t>(i)]);
        };
        std::vector<Values> out = {Values(in[0].size()), Values(in[1].size())};
        for (std::int64_t t = 0; t < rows; ++t) {
            double squares = 0, along = 0;
            for (std::int64_t i = 0; i < n; ++i) {
                squares += at(in[0], t * n + i) * at(in[0], t * n + i);
                along += at(dy, t * n + i) * at(in[1], i) * at(in[0], t * n + i);
            }
            const auto width = static_cast<double>(n);
            const double r = 1 / std::sqrt(squares / width + eps);
            for (std::int64_t i = 0; i < n; ++i) {
                const double size = r * (at(dy, t * n + i) * at(in[1], i) +
                                         at(in[0], t * n + i) * r * r * along / width);
                const auto e = static_cast<std::size_t>(t * n + i);
                out[0][e] = kEpsilon * ((2 * std::sqrt(width) + 16) * size + 1);
                out[1][static_cast<std::size_t>(i)] +=
                    kEpsilon * (2 * std::sqrt(width) + 16 + std::sqrt(static_cast<double>(rows))) *
                    at(dy, t * n + i) * at(in[0], t * n + i) * r;
            }
        }
        for (double& b : out[1]) b += kEpsilon;
        return out;
    }
};

struct Glu {
    ops::Gate act;
    std::int64_t rows, n;

    [[nodiscard]] Operation operation() const {
        Operation op;
        op.inputs = {random_values(3, rows * n, 2), random_values(4, rows * n)};
        op.forward = [*this](Machine& m, const std::vector<Values>& in) {
            Guarded gate = placed(m.exec, in[0], rows, n), up = placed(m.exec, in[1], rows, n);
            Guarded out(m.exec.dtype(), rows, n);
            ops::glu(m.exec, act, gate.view(), up.view(), out.view());
            return values_of(out);
        };
        op.backward = [*this](Machine& m, const std::vector<Values>& in, const Values& d) {
            Guarded gate = placed(m.exec, in[0], rows, n), up = placed(m.exec, in[1], rows, n);
            Guarded dy = placed(m.exec, d, rows, n);
            Guarded dgate(m.exec.dtype(), rows, n), dup(m.exec.dtype(), rows, n);
            ops::glu_backward(m.exec, act, gate.view(), up.view(), dy.view(), dgate.view(),
                              dup.view());
            // In place, to each of the inputs.
            ops::glu_backward(m.exec, act, gate.view(), up.view(), dy.view(), gate.view(),
                              dy.view());
            CHECK(gate.same_bits(dgate));
            CHECK(dy.same_bits(dup));
            return std::vector<Values>{values_of(dgate), values_of(dup)};
        };
        return op;
    }
};

const std::int64_t kWidths[] = {1, 3, 16, 33, 576, 1037};

}  // namespace

TEST_CASE("rms_norm_backward is the derivative of rms_norm") {
    for (const bool in_place : {false, true}) {
        check_differences(Norm{3, 7, 1e-5, in_place}.operation());
        check_differences(Norm{1, 1, 1e-2, in_place}.operation());
        check_differences(Norm{5, 20, 1e-1, in_place}.operation());
    }
}

TEST_CASE("rms_norm_backward: every level agrees with double, in place and added") {
    for (const std::int64_t n : kWidths) {
        for (const std::int64_t rows : {0, 1, 3, 150}) {
            for (const bool in_place : {false, true}) {
                CAPTURE(n);
                CAPTURE(rows);
                const Norm norm{rows, n, 1e-5, in_place, true};
                const Operation op = norm.operation();
                const Values dy = random_values(5, rows * n);
                const auto machine = oracle();
                check_levels(op, dy, op.backward(*machine, op.inputs, dy),
                             norm.bounds(op.inputs, dy));
            }
        }
    }
}

TEST_CASE("glu_backward is the derivative of glu") {
    for (const ops::Gate act : {ops::Gate::kSilu, ops::Gate::kGeluTanh})
        check_differences(Glu{act, 3, 9}.operation());
}

TEST_CASE("glu_backward: every level agrees with double, also far from zero") {
    for (const ops::Gate act : {ops::Gate::kSilu, ops::Gate::kGeluTanh}) {
        for (const std::int64_t n : kWidths) {
            for (const std::int64_t rows : {0, 1, 40}) {
                CAPTURE(n);
                CAPTURE(rows);
                Operation op = Glu{act, rows, n}.operation();
                for (std::size_t i = 0; i < op.inputs[0].size(); i += 5) op.inputs[0][i] *= 10;
                const Values dy = random_values(6, rows * n);
                const auto machine = oracle();
                // A handful of roundings, and e^x within 4e-7; where y = polynomial(gate) is large
                // its rounding moves e^-2y by 2 |y| epsilon, but the gate is then 0 or 1.
                std::vector<Values> bounds(2, Values(dy.size()));
                for (std::size_t i = 0; i < dy.size(); ++i) {
                    const double gate = std::abs(op.inputs[0][i]) + 1, d = std::abs(dy[i]);
                    bounds[0][i] = 64 * kEpsilon * d * (std::abs(op.inputs[1][i]) + 1e-6) * gate;
                    bounds[1][i] = 64 * kEpsilon * d * gate;
                }
                check_levels(op, dy, op.backward(*machine, op.inputs, dy), bounds);
            }
        }
    }
}

TEST_CASE("column_sums adds up every row") {
    for (const std::int64_t n : kWidths) {
        for (const std::int64_t rows : {0, 1, 63, 64, 200}) {
            CAPTURE(n);
            CAPTURE(rows);
            Operation op;
            op.inputs = {random_values(7, n)};
            op.backward = [&](Machine& m, const std::vector<Values>& in, const Values& up) {
                Guarded dy = placed(m.exec, up, rows, n);
                Guarded db = placed(m.exec, in[0], 1, n);
                ops::column_sums(m.exec, dy.view(), db.view());
                return std::vector<Values>{values_of(db)};
            };
            const Values dy = random_values(8, rows * n);
            Values expected = op.inputs[0], sizes(static_cast<std::size_t>(n));
            for (std::size_t i = 0; i < dy.size(); ++i) {
                expected[i % sizes.size()] += dy[i];
                sizes[i % sizes.size()] += std::abs(dy[i]);
            }
            for (std::size_t i = 0; i < sizes.size(); ++i)
                sizes[i] = kEpsilon * (64 + static_cast<double>(rows) / 64) *
                           (sizes[i] + std::abs(op.inputs[0][i]));
            const auto machine = oracle();
            const Values reference = op.backward(*machine, op.inputs, dy)[0];
            CHECK(std::equal(reference.begin(), reference.end(), expected.begin(),
                             [](double a, double b) { return std::abs(a - b) < 1e-12; }));
            check_levels(op, dy, {expected}, {sizes});
        }
    }
}

TEST_CASE("embed_backward adds scaled rows in the order of the tokens") {
    const std::int64_t vocabulary = 6;
    const std::vector<std::int32_t> tokens = {5, 0, 5, 2, 5, 5};
    for (const std::int64_t n : {1, 33, 6000}) {
        CAPTURE(n);
        Operation op;
        op.inputs = {random_values(9, vocabulary * n)};
        op.backward = [&](Machine& m, const std::vector<Values>& in, const Values& up) {
            Guarded dx = placed(m.exec, up, std::ssize(tokens), n), none(m.exec.dtype(), 0, n);
            Guarded table = placed(m.exec, in[0], vocabulary, n);
            ops::embed_backward(m.exec, tokens, 3, dx.view(), table.view());
            ops::embed_backward(m.exec, {}, 3, none.view(), table.view());
            return std::vector<Values>{values_of(table)};
        };
        const Values dx = random_values(10, std::ssize(tokens) * n);
        Values expected = op.inputs[0];
        const auto width = static_cast<std::size_t>(n);
        for (std::size_t t = 0; t < tokens.size(); ++t) {
            for (std::size_t i = 0; i < width; ++i)
                expected[static_cast<std::size_t>(tokens[t]) * width + i] += 3 * dx[t * width + i];
        }
        const auto machine = oracle();
        CHECK(plus(op.backward(*machine, op.inputs, dx)[0], -1, expected) ==
              Values(expected.size()));
        check_levels(op, dx, {expected}, {Values(expected.size(), 64 * kEpsilon)});
    }
}

TEST_CASE("rounding to bfloat16 is that of half.h, infinities and NaN too") {
    // Every upper half, with lower halves around the ties.
    std::vector<float> x;
    for (std::uint32_t upper = 0; upper < 0x10000; ++upper) {
        for (const std::uint32_t lower : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
            x.push_back(bits_to_float(upper << 16 | lower));
    }
    x.pop_back();  // so that there is a rest
    const std::int64_t n = std::ssize(x);
    std::vector<std::uint16_t> expected, narrow(x.size());
    for (const float v : x) expected.push_back(f32_to_bf16(v));
    std::vector<float> rounded(x.size());
    for (const Isa isa : levels()) {
        CAPTURE(name(isa));
        ops::kernels(isa).narrow_bf16(x.data(), n, narrow.data());
        CHECK(narrow == expected);
        ops::kernels(isa).round_bf16(x.data(), n, rounded.data());
        bool same = true;
        for (std::size_t i = 0; i < x.size(); ++i)
            same = same && float_to_bits(rounded[i]) == std::uint32_t{expected[i]} << 16;
        CHECK(same);
    }
}
