// SPDX-License-Identifier: Apache-2.0
// Zeroing weights: exact counts and places, and SparseGPT against Optimal Brain Surgeon steps with
// inverses worked out anew.
#include "prune/sparsity.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "calib/inverse_factor.h"
#include "calib/refit.h"
#include "core/cpu.h"
#include "core/error.h"
#include "kernels/layout/rng.h"
#include "prune/pruner.h"

using namespace thimble;
using namespace thimble::prune;

namespace {

double random_at(std::uint64_t seed, std::uint64_t i) {
    const Philox4 r = philox(seed, i);
    double sum = -2;
    for (const std::uint32_t word : r.v) sum += static_cast<double>(word) / 4294967296.0;
    return sum;
}

std::vector<float> random_weights(std::size_t count, std::uint64_t seed) {
    std::vector<float> out(count);
    for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<float>(random_at(seed, i));
    return out;
}

// Inputs whose columns differ in size and depend on their neighbours, [tokens, n].
std::vector<double> random_inputs(std::int64_t tokens, std::int64_t n, std::uint64_t seed,
                                  double follow = 0.6) {
    std::vector<double> x(static_cast<std::size_t>(tokens * n));
    for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t c = 0; c < n; ++c) {
            const auto i = static_cast<std::size_t>(t * n + c);
            const double size = 0.2 + static_cast<double>(c * 7 % 5);
            x[i] = size * random_at(seed, i) + (c > 0 ? follow * x[i - 1] : 0);
        }
    }
    return x;
}

struct Inputs {
    std::vector<double> squares;
    std::vector<float> gram;
};
Inputs sums_of(const std::vector<double>& x, std::int64_t n) {
    const std::int64_t tokens = std::ssize(x) / n;
    Inputs out;
    std::vector<double> gram(static_cast<std::size_t>(n * n));
    for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t a = 0; a < n; ++a) {
            for (std::int64_t b = 0; b < n; ++b)
                gram[static_cast<std::size_t>(a * n + b)] +=
                    x[static_cast<std::size_t>(t * n + a)] * x[static_cast<std::size_t>(t * n + b)];
        }
    }
    for (std::int64_t a = 0; a < n; ++a)
        out.squares.push_back(gram[static_cast<std::size_t>(a * n + a)] /
                              static_cast<double>(tokens));
    out.gram.assign(gram.begin(), gram.end());
    return out;
}

struct Bench {
    Team team{2};
    Exec exec;
    Bench() {
        exec.isa = best_isa();
        exec.team = &team;
    }
    [[nodiscard]] std::vector<float> pruned(const std::string& method, std::vector<float> weights,
                                            Shape2 shape, const Inputs& inputs) const {
        make_pruner(method, "--method")
            ->prune({"w", shape, weights, inputs.squares, inputs.gram, std::nullopt, exec});
        return weights;
    }
};

std::int64_t zeros(std::span<const float> weights) {
    return std::count(weights.begin(), weights.end(), 0.0F);
}

// |X (w - v)^T|^2 over all rows.
double output_error(const std::vector<double>& x, std::span<const float> w,
                    std::span<const float> v, Shape2 shape) {
    double sum = 0;
    for (std::int64_t t = 0; t < std::ssize(x) / shape.cols; ++t) {
        for (std::int64_t r = 0; r < shape.rows; ++r) {
            double y = 0;
            for (std::int64_t c = 0; c < shape.cols; ++c) {
                const auto i = static_cast<std::size_t>(r * shape.cols + c);
                y +=
                    x[static_cast<std::size_t>(t * shape.cols + c)] * (double{w[i]} - double{v[i]});
            }
            sum += y * y;
        }
    }
    return sum;
}

// By Gauss-Jordan elimination with pivots.
std::vector<double> inverse(std::vector<double> a, std::int64_t n) {
    std::vector<double> out(a.size());
    const auto at = [n](std::vector<double>& m, std::int64_t r, std::int64_t c) -> double& {
        return m[static_cast<std::size_t>(r * n + c)];
    };
    for (std::int64_t i = 0; i < n; ++i) at(out, i, i) = 1;
    for (std::int64_t i = 0; i < n; ++i) {
        std::int64_t pivot = i;
        for (std::int64_t r = i; r < n; ++r)
            if (std::abs(at(a, r, i)) > std::abs(at(a, pivot, i))) pivot = r;
        for (std::int64_t c = 0; c < n; ++c) {
            std::swap(at(a, i, c), at(a, pivot, c));
            std::swap(at(out, i, c), at(out, pivot, c));
        }
        const double d = at(a, i, i);
        for (std::int64_t c = 0; c < n; ++c) at(a, i, c) /= d, at(out, i, c) /= d;
        for (std::int64_t r = 0; r < n; ++r) {
            const double f = at(a, r, i);
            if (r == i || f == 0) continue;
            for (std::int64_t c = 0; c < n; ++c) {
                at(a, r, c) -= f * at(a, i, c);
                at(out, r, c) -= f * at(out, i, c);
            }
        }
    }
    return out;
}

std::vector<double> damped(const std::vector<float>& gram, std::int64_t n, double damp) {
    std::vector<double> h(gram.begin(), gram.end());
    double mean = 0;
    for (std::int64_t i = 0; i < n; ++i)
        mean += h[static_cast<std::size_t>(i * n + i)] / static_cast<double>(n);
    for (std::int64_t i = 0; i < n; ++i) h[static_cast<std::size_t>(i * n + i)] += damp * mean;
    return h;
}

}  // namespace

TEST_CASE("sparsity: exactly so many weights go, of equal ones the first") {
    std::vector<float> weights = {5, 1, 1, 4, 1, 3};
    const std::vector<double> scores = {5, 1, 1, 4, 1, 3};
    zero_least(weights, scores, 2);
    CHECK(weights == std::vector<float>{5, 0, 0, 4, 1, 3});
    zero_least(weights, scores, 0);
    CHECK(zeros(weights) == 2);
    zero_least(weights, scores, 6);
    CHECK(zeros(weights) == 6);
}

TEST_CASE("sparsity: patterns are read, and refused with a reason") {
    const auto read = [](const std::string& nm) {
        return Sparsity({.sparsity = 0.5, .nm = nm}, "--method");
    };
    CHECK(read("2:4").zeros_of(64) == 32);
    CHECK(read("1:4").zeros_of(64) == 48);
    CHECK(read("").zeros_of(7) == 4);
    for (const char* bad : {"2", "4:4", "0:4", "2:4x", ":4", "5:4", "2:128"}) {
        CAPTURE(bad);
        CHECK_THROWS_AS(read(bad), Error);
    }
    CHECK_THROWS_AS(read("2:4").check("w", 30), Error);
    CHECK_NOTHROW(read("2:4").check("w", 32));
}

TEST_CASE("wanda: in each row the least of |w| times the input's norm go") {
    const Bench bench;
    const Shape2 shape{5, 24};
    const std::vector<double> x = random_inputs(40, shape.cols, 3);
    const Inputs inputs = sums_of(x, shape.cols);
    const std::vector<float> before = random_weights(120, 9);
    const std::vector<float> after = bench.pruned("wanda:sparsity=0.25", before, shape, inputs);
    for (std::int64_t r = 0; r < shape.rows; ++r) {
        std::vector<std::pair<double, std::int64_t>> order;
        for (std::int64_t c = 0; c < shape.cols; ++c) {
            const double w = before[static_cast<std::size_t>(r * shape.cols + c)];
            order.emplace_back(w * w * inputs.squares[static_cast<std::size_t>(c)], c);
        }
        std::sort(order.begin(), order.end());
        for (std::size_t i = 0; i < order.size(); ++i) {
            const auto at = static_cast<std::size_t>(r * shape.cols + order[i].second);
            CHECK(after[at] == (i < 6 ? 0.0F : before[at]));
        }
    }
    // Inputs of one size: the smallest weights of a row.
    Inputs flat = inputs;
    std::fill(flat.squares.begin(), flat.squares.end(), 2.0);
    CHECK(bench.pruned("wanda:sparsity=0.5", before, shape, flat) ==
          bench.pruned("magnitude:sparsity=0.5,scope=row", before, shape, flat));
    for (const char* method : {"wanda:sparsity=0", "magnitude:sparsity=0", "sparsegpt:sparsity=0"})
        CHECK(bench.pruned(method, before, shape, inputs) == before);
}

TEST_CASE("patterns: every group keeps exactly n of m") {
    const Bench bench;
    const Shape2 shape{7, 64};
    const Inputs inputs = sums_of(random_inputs(200, shape.cols, 5), shape.cols);
    const std::vector<float> before = random_weights(7 * 64, 11);
    for (const char* method : {"magnitude", "wanda", "sparsegpt"}) {
        for (const auto& [nm, n, m] : {std::tuple{"2:4", 2, 4}, {"4:8", 4, 8}, {"1:4", 1, 4}}) {
            CAPTURE(method);
            CAPTURE(nm);
            const std::vector<float> after =
                bench.pruned(std::string(method) + ":nm=" + nm, before, shape, inputs);
            for (std::size_t g = 0; g < after.size(); g += static_cast<std::size_t>(m))
                CHECK(zeros(std::span(after).subspan(g, static_cast<std::size_t>(m))) == m - n);
        }
    }
}

TEST_CASE("inverse factor: U^T U is the inverse, and idle inputs are left alone") {
    constexpr std::int64_t n = 37;
    std::vector<double> x = random_inputs(90, n, 21);
    for (std::int64_t t = 0; t < 90; ++t) x[static_cast<std::size_t>(t * n + 5)] = 0;
    const Inputs inputs = sums_of(x, n);
    std::vector<double> h = damped(inputs.gram, n, 0.01);
    for (std::int64_t i = 0; i < n; ++i)
        h[static_cast<std::size_t>(5 * n + i)] = h[static_cast<std::size_t>(i * n + 5)] =
            i == 5 ? 1 : 0;
    const Buffer factor = inverse_factor(inputs.gram, n, 0.01, "w");
    const auto* u = factor.as<double>();
    for (std::int64_t a = 0; a < n; ++a) {
        for (std::int64_t b = 0; b < n; ++b) {
            if (b < a) CHECK(u[a * n + b] == 0);
            double sum = 0;  // of U^T U H
            for (std::int64_t k = 0; k < n; ++k) {
                double inner = 0;
                for (std::int64_t i = 0; i <= std::min(a, k); ++i)
                    inner += u[i * n + a] * u[i * n + k];
                sum += inner * h[static_cast<std::size_t>(k * n + b)];
            }
            CHECK(sum == doctest::Approx(a == b ? 1 : 0).epsilon(1e-9).scale(1));
        }
    }
    std::vector<float> bad = inputs.gram;
    bad[3] = NAN;
    CHECK_THROWS_AS((void)inverse_factor(bad, n, 0.01, "w"), Error);
}

TEST_CASE("sparsegpt: each step is Optimal Brain Surgeon's on the columns that are left") {
    const Bench bench;
    constexpr std::int64_t n = 24;
    const Shape2 shape{3, n};
    const Inputs inputs = sums_of(random_inputs(80, n, 8), n);
    const std::vector<float> before = random_weights(3 * n, 13);
    const std::vector<double> h = damped(inputs.gram, n, 0.01);
    std::vector<double> want(before.begin(), before.end());
    std::array<std::array<bool, 4>, 3> goes{};
    for (std::int64_t j = 0; j < n; ++j) {
        // The inverse over columns j, j + 1, ... alone.
        const std::int64_t left = n - j;
        std::vector<double> rest;
        for (std::int64_t a = j; a < n; ++a)
            rest.insert(rest.end(), h.begin() + a * n + j, h.begin() + (a + 1) * n);
        const std::vector<double> inv = inverse(rest, left);
        for (std::int64_t r = 0; r < shape.rows; ++r) {
            double* w = want.data() + r * n;
            // 2:4: the two cheapest of the four, chosen when the group begins.
            if (j % 4 == 0) {
                std::array<std::pair<double, int>, 4> costs;
                for (int i = 0; i < 4; ++i) {
                    const std::int64_t from = j + i, size = n - from;
                    std::vector<double> block;
                    for (std::int64_t a = from; a < n; ++a)
                        block.insert(block.end(), h.begin() + a * n + from,
                                     h.begin() + (a + 1) * n);
                    costs[static_cast<std::size_t>(i)] = {
                        w[from] * w[from] / inverse(block, size)[0], i};
                }
                std::sort(costs.begin(), costs.end());
                auto& flags = goes[static_cast<std::size_t>(r)];
                flags.fill(false);
                flags[static_cast<std::size_t>(costs[0].second)] = true;
                flags[static_cast<std::size_t>(costs[1].second)] = true;
            }
            if (!goes[static_cast<std::size_t>(r)][static_cast<std::size_t>(j % 4)]) continue;
            const double error = w[j] / inv[0];
            for (std::int64_t c = 0; c < left; ++c)
                w[j + c] -= error * inv[static_cast<std::size_t>(c)];
            w[j] = 0;
        }
    }
    // Blocks of other widths are the same steps in another order of sums.
    for (const char* method : {"sparsegpt:nm=2:4", "sparsegpt:nm=2:4,block=8"}) {
        CAPTURE(method);
        const std::vector<float> got = bench.pruned(method, before, shape, inputs);
        for (std::size_t i = 0; i < got.size(); ++i)
            CHECK(double{got[i]} == doctest::Approx(want[i]).epsilon(1e-4).scale(1));
    }
}

TEST_CASE("sparsegpt: with inputs that know nothing of each other, the smallest weights go") {
    const Bench bench;
    const Shape2 shape{6, 16};
    Inputs inputs;
    inputs.gram.assign(256, 0.0F);
    for (std::size_t i = 0; i < 16; ++i) inputs.gram[i * 17] = 3;
    const std::vector<float> before = random_weights(96, 17);
    CHECK(bench.pruned("sparsegpt:sparsity=0.5,block=16", before, shape, inputs) ==
          bench.pruned("magnitude:sparsity=0.5", before, shape, inputs));
}

TEST_CASE("sparsegpt: errs less than Wanda where inputs follow one another") {
    const Bench bench;
    const Shape2 shape{16, 48};
    const std::vector<double> x = random_inputs(300, shape.cols, 31, 0.9);
    const Inputs inputs = sums_of(x, shape.cols);
    const std::vector<float> before = random_weights(16 * 48, 19);
    for (const char* options : {"sparsity=0.5", "nm=2:4"}) {
        CAPTURE(options);
        const auto wanda = bench.pruned(std::string("wanda:") + options, before, shape, inputs);
        const auto gpt = bench.pruned(std::string("sparsegpt:") + options, before, shape, inputs);
        CHECK(zeros(wanda) == zeros(gpt));
        CHECK(output_error(x, before, gpt, shape) < output_error(x, before, wanda, shape));
    }
}

TEST_CASE("refit: what is left is the least-squares fit to what was") {
    constexpr std::int64_t n = 30;
    const Shape2 shape{4, n};
    const std::vector<double> x = random_inputs(120, n, 41, 0.9);
    const Inputs inputs = sums_of(x, n);
    const std::vector<float> before = random_weights(4 * n, 23);
    std::vector<std::int64_t> kept;
    for (std::int64_t c = 0; c < n; ++c)
        if (c % 3 != 1) kept.push_back(c);
    std::vector<float> after = before, cut = before;
    refit_columns(after, shape, inputs.gram, kept, 1e-6, "w");
    for (std::int64_t r = 0; r < shape.rows; ++r) {
        // No kept column's input has anything left in common with the error.
        for (std::int64_t c = 0; c < n; ++c) {
            const auto i = static_cast<std::size_t>(r * n + c);
            if (c % 3 == 1) {
                CHECK(after[i] == 0);
                cut[i] = 0;
                continue;
            }
            double left = 0, size = 0;
            for (std::int64_t k = 0; k < n; ++k) {
                const auto j = static_cast<std::size_t>(r * n + k);
                const double g = inputs.gram[static_cast<std::size_t>(c * n + k)];
                left += (double{before[j]} - double{after[j]}) * g;
                size += std::abs((double{before[j]} - double{after[j]}) * g);
            }
            CHECK(std::abs(left) < 1e-4 * size);
        }
    }
    CHECK(output_error(x, before, after, shape) < 0.5 * output_error(x, before, cut, shape));
    // Nothing goes: nothing changes.
    std::vector<std::int64_t> all(n);
    std::iota(all.begin(), all.end(), 0);
    std::vector<float> same = before;
    refit_columns(same, shape, inputs.gram, all, 0.01, "w");
    CHECK(same == before);
}

TEST_CASE("methods: names and options are checked") {
    for (const char* bad :
         {"wnada", "wanda:sparsity=1.5", "layers:count=2,ratio=0.1", "layers:drop=3,greedy",
          "layers:contiguous,greedy,count=1", "sparsegpt:nm=2:4,block=6", "heads:unit=row"}) {
        CAPTURE(bad);
        CHECK_THROWS_AS((void)make_pruner(bad, "--method"), Error);
    }
}
