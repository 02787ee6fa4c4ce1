// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "harness.h"

using namespace thimble;
using namespace thimble::test;

namespace {

// Runs `operation` on the reference device and on every level with 1, 2 and 3 threads; each element
// must lie within `tolerance` of the reference, the bits must not depend on the threads, and the
// guards must hold.
template <class Make, class Operation, class Tolerance>
void compare(std::int64_t rows, std::int64_t cols, Make&& make, Operation&& operation,
             Tolerance&& tolerance) {
    Machine oracle(Isa::kPortable, 1, 1 << 20, Device::kRef);
    Guarded expected(DType::kF64, rows, cols);
    make(oracle.exec, expected);
    operation(oracle.exec, expected);
    for (const Isa isa : levels()) {
        CAPTURE(name(isa));
        Machine one(isa, 1);
        Guarded first(DType::kF32, rows, cols);
        make(one.exec, first);
        operation(one.exec, first);
        CHECK(first.guards_hold());
        double worst = 0;
        for (std::int64_t r = 0; r < rows; ++r) {
            for (std::int64_t c = 0; c < cols; ++c) {
                const double error = std::abs(first.at(r, c) - expected.at(r, c));
                worst = std::max(worst,
                                 std::isnan(error) ? 1e300 : error / tolerance(expected.at(r, c)));
            }
        }
        CHECK(worst <= 1.0);
        for (const int threads : {2, 3}) {
            Machine more(isa, threads);
            Guarded again(DType::kF32, rows, cols);
            make(more.exec, again);
            operation(more.exec, again);
            CHECK(again.same_bits(first));
        }
    }
}

void fill(Guarded& g, std::uint64_t seed, float deviation = 1) {
    Random random(seed);
    for (std::int64_t r = 0; r < g.rows(); ++r) {
        for (std::int64_t c = 0; c < g.cols(); ++c)
            g.set(r, c, static_cast<double>(random.normal(deviation)));
    }
}

const std::int64_t kWidths[] = {1, 3, 7, 16, 33, 64, 576, 640, 1037};

}  // namespace

TEST_CASE("rms_norm agrees with double at every width and level") {
    for (const std::int64_t n : kWidths) {
        for (const std::int64_t rows : {1, 5, 40}) {
            CAPTURE(n);
            const auto make = [&](const Exec&, Guarded& g) { fill(g, 11, 3); };
            const auto run = [&](const Exec& exec, Guarded& g) {
                Guarded weight(exec.dtype(), 1, n);
                fill(weight, 12);
                ops::rms_norm(exec, g.view(), weight.view(), 1e-6, g.view());
            };
            // The sum of n squares is off by at most n eps relative (all terms are positive); the
            // root halves that; two products and a division add their own.
            const double relative = kEpsilon * (0.5 * static_cast<double>(n) / 4 + 8);
            compare(rows, n, make, run, [&](double x) { return relative * std::abs(x) + 1e-30; });
        }
    }
}

TEST_CASE("add and scale are exact to the last place") {
    for (const std::int64_t n : kWidths) {
        const auto make = [&](const Exec&, Guarded& g) { fill(g, 21); };
        const auto run = [&](const Exec& exec, Guarded& g) {
            Guarded other(exec.dtype(), 9, n);
            fill(other, 22);
            ops::add(exec, g.view(), other.view(), g.view());
            ops::scale(exec, g.view(), 0.3);
        };
        compare(9, n, make, run, [](double x) { return kEpsilon * (std::abs(x) + 4); });
    }
}

TEST_CASE("glu: silu and gelu over the whole range") {
    for (const ops::Gate gate : {ops::Gate::kSilu, ops::Gate::kGeluTanh}) {
        for (const std::int64_t n : kWidths) {
            const auto make = [&](const Exec&, Guarded& g) {
                for (std::int64_t r = 0; r < g.rows(); ++r) {
                    for (std::int64_t c = 0; c < n; ++c)
                        g.set(r, c,
                              (static_cast<double>(r * n + c) / static_cast<double>(3 * n) - 0.5) *
                                  60);
                }
            };
            const auto run = [&](const Exec& exec, Guarded& g) {
                Guarded up(exec.dtype(), 3, n);
                fill(up, 31);
                ops::glu(exec, gate, g.view(), up.view(), g.view());
            };
            // The argument of the exponential is rounded, and e^y carries |y| eps of that; where
            // |y| is large the result is tiny (left) or insensitive (right).
            compare(3, n, make, run,
                    [](double x) { return 60 * kEpsilon * std::abs(x) + 40 * kEpsilon; });
        }
    }
}

TEST_CASE("glu keeps the limits: huge gates give the input or zero, NaN stays NaN") {
    for (const Isa isa : levels()) {
        Machine m(isa, 1);
        for (const ops::Gate gate : {ops::Gate::kSilu, ops::Gate::kGeluTanh}) {
            Guarded g(m.exec, {1e4f, -1e4f, 3e38f, -3e38f, 0.0f, NAN}, 1),
                up(m.exec, {1, 1, 1, 1, 1, 1}, 1);
            ops::glu(m.exec, gate, g.view(), up.view(), g.view());
            CHECK(g.at(0, 0) == 1e4f);
            CHECK(std::abs(g.at(0, 1)) < 1e-30);
            CHECK(g.at(0, 2) == 3e38f);
            CHECK(std::abs(g.at(0, 3)) < 2);
            CHECK(g.at(0, 4) == 0);
            CHECK(std::isnan(g.at(0, 5)));
        }
    }
}

TEST_CASE("rope: both styles, partial rotation, factors, large positions") {
    const std::int64_t tokens = 5;
    const std::vector<std::int64_t> positions = {0, 1, 77, 4095, 131071};
    for (const auto style : {ops::RopeStyle::kInterleaved, ops::RopeStyle::kHalves}) {
        for (const int dims : {2, 8, 64, 80}) {
            for (const bool factors : {false, true}) {
                std::vector<float> divisors;
                for (int i = 0; factors && i < dims / 2; ++i)
                    divisors.push_back(1.0f + 0.25f * static_cast<float>(i));
                const auto make = [&](const Exec&, Guarded& g) { fill(g, 41); };
                const auto run = [&](const Exec& exec, Guarded& g) {
                    ops::Rope rope;
                    rope.style = style, rope.dims = dims, rope.base = 10000,
                    rope.frequency_scale = 0.5;
                    rope.factors = divisors;
                    ops::rope(exec, rope, 80, positions, g.view());
                };
                compare(tokens, 3 * 80, make, run, [](double) { return 8 * kEpsilon * 4; });
            }
        }
    }
}

TEST_CASE("rope: a pair keeps its length and position 0 keeps every bit") {
    Machine m(best_isa(), 1);
    Guarded x(DType::kF32, 2, 64), before(DType::kF32, 2, 64);
    fill(x, 42), fill(before, 42);
    const std::vector<std::int64_t> positions = {0, 1234};
    ops::Rope rope;
    rope.style = ops::RopeStyle::kHalves, rope.dims = 64;
    ops::rope(m.exec, rope, 64, positions, x.view());
    for (std::int64_t i = 0; i < 64; ++i) CHECK(x.at(0, i) == before.at(0, i));
    for (std::int64_t i = 0; i < 32; ++i) {
        const double now = std::hypot(x.at(1, i), x.at(1, i + 32));
        const double then = std::hypot(before.at(1, i), before.at(1, i + 32));
        CHECK(std::abs(now - then) <= 4 * kEpsilon * then);
    }
}

TEST_CASE("row_stats: log-sum-exp, lowest index on ties, NaN and huge values") {
    for (const Isa isa : levels()) {
        for (const std::int64_t n : {1, 15, 4096, 4097, 49152}) {
            Machine m(isa), oracle(Isa::kPortable, 1, 1 << 20, Device::kRef);
            Guarded x(DType::kF32, 4, n), y(DType::kF64, 4, n);
            fill(x, 51, 4);
            for (std::int64_t r = 0; r < 4; ++r) {
                for (std::int64_t c = 0; c < n; ++c) y.set(r, c, x.at(r, c));
            }
            std::vector<ops::RowStats> got(4), expected(4);
            ops::row_stats(m.exec, x.view(), got);
            ops::row_stats(oracle.exec, y.view(), expected);
            for (std::size_t r = 0; r < 4; ++r) {
                CHECK(got[r].argmax == expected[r].argmax);
                CHECK(std::abs(got[r].log_sum_exp - expected[r].log_sum_exp) <= 64 * kEpsilon);
            }
        }
        Machine m(isa, 1);
        std::vector<ops::RowStats> stats(1);
        Guarded ties(m.exec, {1, 7, 7, 3, 7}, 1);
        ops::row_stats(m.exec, ties.view(), stats);
        CHECK(stats[0].argmax == 1);
        Guarded huge(m.exec, {3e38f, -3e38f, 3e38f}, 1);
        ops::row_stats(m.exec, huge.view(), stats);
        CHECK(std::abs(stats[0].log_sum_exp - 3e38) <= 3e38 * kEpsilon);
        Guarded bad(m.exec, {1, NAN, 2}, 1);
        ops::row_stats(m.exec, bad.view(), stats);
        CHECK(std::isnan(stats[0].log_sum_exp));
    }
}
