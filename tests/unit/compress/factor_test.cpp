// SPDX-License-Identifier: Apache-2.0
// A matrix in factors: against products and least squares worked out in doubles, and ranks chosen
// by hand and by trying all.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "calib/factor_matrix.h"
#include "compress/rank_choice.h"
#include "core/error.h"
#include "kernels/layout/rng.h"

using namespace thimble;

namespace {

struct Matrix {
    Matrix(std::int64_t n, std::int64_t m)
        : rows(n), cols(m), values(static_cast<std::size_t>(n * m)) {}
    double& operator()(std::int64_t r, std::int64_t c) {
        return values[static_cast<std::size_t>(r * cols + c)];
    }
    double operator()(std::int64_t r, std::int64_t c) const {
        return values[static_cast<std::size_t>(r * cols + c)];
    }
    [[nodiscard]] Matrix transposed() const {
        Matrix out(cols, rows);
        for (std::int64_t r = 0; r < rows; ++r)
            for (std::int64_t c = 0; c < cols; ++c) out(c, r) = (*this)(r, c);
        return out;
    }
    [[nodiscard]] double square() const {
        return std::inner_product(values.begin(), values.end(), values.begin(), 0.0);
    }
    [[nodiscard]] double largest() const {
        double most = 0;
        for (const double v : values) most = std::max(most, std::abs(v));
        return most;
    }
    std::int64_t rows, cols;
    std::vector<double> values;
};
Matrix operator*(const Matrix& a, const Matrix& b) {
    Matrix out(a.rows, b.cols);
    for (std::int64_t r = 0; r < a.rows; ++r)
        for (std::int64_t k = 0; k < a.cols; ++k)
            for (std::int64_t c = 0; c < b.cols; ++c) out(r, c) += a(r, k) * b(k, c);
    return out;
}
Matrix operator-(Matrix a, const Matrix& b) {
    for (std::size_t i = 0; i < a.values.size(); ++i) a.values[i] -= b.values[i];
    return a;
}

// Squares of the singular values, falling: rows are turned against one another until all are
// orthogonal (Jacobi's method, one-sided).
std::vector<double> singular_squares(Matrix m) {
    if (m.rows > m.cols) m = m.transposed();
    const auto dot = [&](std::int64_t i, std::int64_t j) {
        double sum = 0;
        for (std::int64_t c = 0; c < m.cols; ++c) sum += m(i, c) * m(j, c);
        return sum;
    };
    for (int sweep = 0; sweep < 60; ++sweep) {
        for (std::int64_t i = 0; i < m.rows; ++i) {
            for (std::int64_t j = i + 1; j < m.rows; ++j) {
                const double angle = 0.5 * std::atan2(2 * dot(i, j), dot(i, i) - dot(j, j));
                for (std::int64_t c = 0; c < m.cols; ++c) {
                    const double x = m(i, c), y = m(j, c);
                    m(i, c) = std::cos(angle) * x + std::sin(angle) * y;
                    m(j, c) = std::cos(angle) * y - std::sin(angle) * x;
                }
            }
        }
    }
    std::vector<double> out;
    for (std::int64_t i = 0; i < m.rows; ++i) out.push_back(dot(i, i));
    std::sort(out.begin(), out.end(), std::greater<>());
    return out;
}

double random_at(std::uint64_t seed, std::uint64_t i) {
    const Philox4 r = philox(seed, i);
    double sum = -2;
    for (const std::uint32_t word : r.v) sum += static_cast<double>(word) / 4294967296.0;
    return sum;
}
// As floats have it.
Matrix random_matrix(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
    Matrix out(rows, cols);
    for (std::size_t i = 0; i < out.values.size(); ++i)
        out.values[i] = static_cast<double>(static_cast<float>(random_at(seed, i)));
    return out;
}
// [cols, tokens]: columns of other sizes, that follow their neighbours.
Matrix random_inputs(std::int64_t cols, std::int64_t tokens, std::uint64_t seed) {
    Matrix x = random_matrix(cols, tokens, seed);
    for (std::int64_t c = 0; c < cols; ++c) {
        for (std::int64_t t = 0; t < tokens; ++t) {
            x(c, t) *= 0.05 + static_cast<double>(c * 7 % 5);
            if (c > 0) x(c, t) += 0.8 * x(c - 1, t);
        }
    }
    return x;
}
std::vector<float> floats(const Matrix& m) {
    std::vector<float> out;
    for (const double v : m.values) out.push_back(static_cast<float>(v));
    return out;
}

struct Case {
    Matrix w, x;
    std::vector<float> weights, gram;
    std::vector<double> squares;
    Case(std::int64_t rows, std::int64_t cols, std::uint64_t seed)
        : w(random_matrix(rows, cols, seed)),
          x(random_inputs(cols, 3 * cols, seed + 1)),
          weights(floats(w)),
          gram(floats(x * x.transposed())) {
        const Matrix sums = x * x.transposed();
        for (std::int64_t c = 0; c < cols; ++c)
            squares.push_back(sums(c, c) / static_cast<double>(x.cols));
    }
    [[nodiscard]] Shape2 shape() const { return {w.rows, w.cols}; }
    [[nodiscard]] MatrixFactors factor(const InputNorm& norm, std::int64_t most) const {
        return factor_matrix(weights, shape(), norm, most, "test");
    }
    [[nodiscard]] InputNorm full() const { return {{}, gram, 1e-9}; }
    [[nodiscard]] Matrix product(const MatrixFactors& f, std::int64_t rank) const {
        Matrix a(rank, w.cols), b(rank, w.rows);
        std::copy_n(f.a.begin(), a.values.size(), a.values.begin());
        std::copy_n(f.b.begin(), b.values.size(), b.values.begin());
        return b.transposed() * a;
    }
    // |(W - B A) X|^2
    [[nodiscard]] double error(const MatrixFactors& f, std::int64_t rank) const {
        return ((w - product(f, rank)) * x).square();
    }
};

constexpr std::int64_t kShapes[][2] = {{24, 16}, {16, 24}, {20, 20}, {1, 9}, {9, 1}};

}  // namespace

TEST_CASE("factors: of full rank they are the matrix, whatever the inputs") {
    for (const auto& [rows, cols] : kShapes) {
        CAPTURE(rows);
        CAPTURE(cols);
        const Case c(rows, cols, 1);
        const std::int64_t rank = std::min(rows, cols);
        for (const InputNorm& norm :
             {InputNorm{}, InputNorm{c.squares, {}, 0.01}, InputNorm{{}, c.gram, 0.01}}) {
            const Matrix difference = c.w - c.product(c.factor(norm, rank), rank);
            CHECK(difference.largest() < 1e-5);
        }
    }
}

TEST_CASE("factors: a matrix of low rank comes back at that rank") {
    for (const auto& [rows, cols] : kShapes) {
        Case c(rows, cols, 2);
        const std::int64_t rank = std::min<std::int64_t>(3, std::min(rows, cols));
        c.w = random_matrix(rows, rank, 5) * random_matrix(rank, cols, 6);
        c.weights = floats(c.w);
        for (const InputNorm& norm : {InputNorm{}, InputNorm{{}, c.gram, 0.01}}) {
            const MatrixFactors f = c.factor(norm, rank);
            CHECK((c.w - c.product(f, rank)).largest() < 1e-5);
            // No energy is left.
            for (auto i = static_cast<std::size_t>(rank); i < f.energy.size(); ++i)
                CHECK(f.energy[i] < 1e-10 * f.energy[0]);
        }
    }
}

TEST_CASE("factors: the error is that of the cut singular values of W X, and no product has less") {
    for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{24, 16}, {16, 24}}) {
        const Case c(rows, cols, 3);
        const std::int64_t full = std::min(rows, cols);
        const std::vector<double> squares = singular_squares(c.w * c.x);
        const MatrixFactors f = c.factor(c.full(), full), plain = c.factor({}, full),
                            diagonal = c.factor({c.squares, {}, 1e-9}, full);
        double better = 0;
        for (std::int64_t rank = 1; rank < full; ++rank) {
            CAPTURE(rank);
            double want = 0;
            for (std::int64_t i = rank; i < full; ++i) want += squares[static_cast<std::size_t>(i)];
            double said = 0;
            for (auto i = static_cast<std::size_t>(rank); i < f.energy.size(); ++i)
                said += f.energy[i];
            const double error = c.error(f, rank);
            CHECK(error == doctest::Approx(want).epsilon(1e-4));
            CHECK(said == doctest::Approx(want).epsilon(1e-4));
            CHECK(error <= c.error(plain, rank) * (1 + 1e-6));
            CHECK(error <= c.error(diagonal, rank) * (1 + 1e-6));
            better = std::max(better, c.error(plain, rank) / error);
        }
        CHECK(better > 2);  // the inputs do matter here
    }
}

TEST_CASE("factors: without inputs they are the cut singular values of the weights") {
    const Case c(18, 12, 4);
    const std::vector<double> squares = singular_squares(c.w);
    const MatrixFactors f = c.factor({}, 12);
    REQUIRE(f.energy.size() == 12);
    for (std::size_t i = 0; i < 12; ++i) CHECK(f.energy[i] == doctest::Approx(squares[i]));
}

TEST_CASE("factors: inputs that are always zero, and those that are not finite") {
    Case c(12, 8, 7);
    c.gram.assign(c.gram.size(), 0.0F);
    CHECK((c.w - c.product(c.factor({{}, c.gram, 0.01}, 8), 8)).largest() < 1e-5);
    c.gram[3] = NAN;
    CHECK_THROWS_WITH_AS((void)c.factor({{}, c.gram, 0.01}, 8), doctest::Contains("not finite"),
                         const Error&);
    c.gram.assign(c.gram.size(), 0.0F);
    c.gram[0] = -1;
    CHECK_THROWS_WITH_AS((void)c.factor({{}, c.gram, 0.01}, 8),
                         doctest::Contains("positive definite"), const Error&);
}

namespace {

using Places = std::vector<std::size_t>;

std::uint64_t bytes_of(const std::vector<RankChoices>& m, const Places& at) {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < m.size(); ++i) sum += m[i][at[i]].bytes;
    return sum;
}
double loss_of(const std::vector<RankChoices>& m, const Places& at) {
    double sum = 0;
    for (std::size_t i = 0; i < m.size(); ++i) sum += m[i][at[i]].loss;
    return sum;
}

}  // namespace

TEST_CASE("ranks: of two matrices the one goes first that loses less by the byte") {
    // Per byte: the first loses 0.001, 0.002, 0.010; the second 0.004, 0.005.
    const std::vector<RankChoices> m = {{{0, 100, 0}, {3, 90, 0.01}, {2, 80, 0.03}, {1, 70, 0.13}},
                                        {{0, 100, 0}, {2, 80, 0.08}, {1, 60, 0.18}}};
    CHECK(choose_ranks(m, 200, "x") == Places{0, 0});
    CHECK(choose_ranks(m, 199, "x") == Places{1, 0});
    CHECK(choose_ranks(m, 180, "x") == Places{2, 0});
    CHECK(choose_ranks(m, 160, "x") == Places{2, 1});
    CHECK(choose_ranks(m, 140, "x") == Places{2, 2});
    CHECK(choose_ranks(m, 130, "x") == Places{3, 2});
    CHECK_THROWS_WITH_AS((void)choose_ranks(m, 129, "--ratio"), doctest::Contains("--ratio"),
                         const Error&);
    // 150 is not reached by whole steps alone: what is left goes where it gains most.
    CHECK(choose_ranks(m, 150, "x") == Places{1, 2});
    CHECK(choose_equal(m, 0.8) == Places{2, 1});
    CHECK(choose_equal(m, 0.75) == Places{3, 2});
    CHECK(choose_equal(m, 0.1) == Places{3, 2});
    CHECK(choose_equal(m, 1) == Places{0, 0});
}

TEST_CASE("ranks: a first step that saves little and loses much is passed over") {
    // As factors are: hardly smaller than the matrix at first, and then not exact.
    const std::vector<RankChoices> m = {{{0, 100, 0}, {9, 99, 0.10}, {8, 60, 0.12}, {7, 50, 0.5}},
                                        {{0, 100, 0}, {8, 60, 0.13}, {7, 50, 0.5}}};
    CHECK(choose_ranks(m, 160, "x") == Places{2, 0});
    CHECK(choose_ranks(m, 199, "x") == Places{1, 0});
    CHECK(choose_ranks(m, 120, "x") == Places{2, 1});
}

TEST_CASE("ranks: within the bytes, and near the best there is") {
    for (std::uint64_t seed = 1; seed <= 30; ++seed) {
        std::vector<RankChoices> m;
        for (std::uint64_t i = 0; i < 3; ++i) {
            RankChoices choices = {{0, 120, 0}};
            double loss = 0;
            for (std::int64_t rank = 6; rank >= 1; --rank) {
                // As energies do, steps rise.
                loss += std::abs(random_at(seed, i * 10 + static_cast<std::uint64_t>(rank))) *
                        static_cast<double>(8 - rank);
                choices.push_back({rank, static_cast<std::uint64_t>(rank) * 16 + 10, loss});
            }
            m.push_back(choices);
        }
        for (const std::uint64_t bytes : {100U, 150U, 200U, 250U, 300U, 359U}) {
            double best = 1e300;
            for (std::size_t a = 0; a < 7; ++a)
                for (std::size_t b = 0; b < 7; ++b)
                    for (std::size_t c = 0; c < 7; ++c)
                        if (bytes_of(m, {a, b, c}) <= bytes)
                            best = std::min(best, loss_of(m, {a, b, c}));
            const Places at = choose_ranks(m, bytes, "x");
            CHECK(bytes_of(m, at) <= bytes);
            CHECK(loss_of(m, at) >= best - 1e-12);
            // Greedy steps are off by no more than one step of one matrix.
            double step = 0;
            for (const RankChoices& choices : m)
                for (std::size_t i = 1; i < choices.size(); ++i)
                    step = std::max(step, choices[i].loss - choices[i - 1].loss);
            CHECK(loss_of(m, at) <= best + step);
        }
    }
}
