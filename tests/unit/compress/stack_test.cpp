// SPDX-License-Identifier: Apache-2.0
// Matrices as sums of signed blocks, against arithmetic in double.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "compress/low_rank.h"
#include "compress/stack_encoder.h"
#include "kernels/layout/half.h"
#include "tests/kernels/harness.h"

using namespace thimble;
using namespace thimble::test;

namespace {

// What blocks are, weight by weight.
std::vector<double> sum_of(const StackForm& form, std::span<const ops::SignedBlock> blocks) {
    const auto [rows, cols] = form.shape;
    std::vector<double> w(static_cast<std::size_t>(rows * cols));
    for (const ops::SignedBlock& block : blocks) {
        for (std::int64_t r = 0; r < rows; ++r) {
            for (std::int64_t c = 0; c < cols; ++c) {
                double sum = 0;
                for (std::int64_t k = 0; k < form.rank; ++k)
                    sum += static_cast<double>(f16_to_f32(block.a[r * form.rank + k])) *
                           static_cast<double>(f16_to_f32(block.b[c * form.rank + k]));
                const auto byte = static_cast<unsigned>(block.signs[r * ((cols + 7) / 8) + c / 8]);
                const double sign = (byte >> (c % 8) & 1) != 0 ? -1 : 1;
                w[static_cast<std::size_t>(r * cols + c)] +=
                    sign * sum * static_cast<double>(block.scale);
            }
        }
    }
    return w;
}

// Blocks of a matrix, encoded on one machine.
struct Encoded {
    Encoded(const StackForm& f, const std::vector<float>& weights, std::span<const float> scales,
            std::int64_t levels)
        : form(f) {
        Machine m(best_isa());
        StackEncoder encoder(m.exec, form, weights, scales);
        residuals.push_back(std::sqrt(encoder.residual_square()));
        for (std::int64_t level = 0; level < levels; ++level) {
            memory.emplace_back(form.bytes);
            encoder.next(memory.back());
            blocks.push_back(form.block(memory.back().data()));
            residuals.push_back(std::sqrt(encoder.residual_square()));
        }
    }
    StackForm form;
    std::vector<std::vector<std::byte>> memory;
    std::vector<ops::SignedBlock> blocks;
    std::vector<double> residuals;  // before the first block, and after each
};

double norm(const std::vector<double>& values) {
    double sum = 0;
    for (const double v : values) sum += v * v;
    return std::sqrt(sum);
}

}  // namespace

TEST_CASE("stack: zeros of both signs are positive, bits beyond the columns are clear") {
    const std::vector<float> row = {0.0f, -0.0f, 1, -1, -1e-45f, 1e-45f, -3, 3, -2};
    std::vector<std::byte> bytes(2, std::byte{0xff});
    pack_signs(row, bytes);
    CHECK(bytes[0] == std::byte{0b01011000});
    CHECK(bytes[1] == std::byte{1});
}

TEST_CASE("stack: the residual falls with every block, and is what the blocks leave") {
    Random random(3);
    for (const Shape2 shape : {Shape2{70, 45}, Shape2{33, 130}, Shape2{1, 40}, Shape2{40, 1}}) {
        CAPTURE(shape.rows);
        const std::vector<float> w = random.normals(shape.rows * shape.cols, 0.1f);
        std::vector<float> scales;
        for (std::int64_t c = 0; c < shape.cols; ++c) scales.push_back(0.01f + 3 * random.unit());
        const std::int64_t rank = std::min<std::int64_t>({16, shape.rows, shape.cols});
        const Encoded e(StackForm(shape, rank), w, scales, 8);
        const bool exact = rank == std::min(shape.rows, shape.cols);
        for (std::size_t level = 0; level < e.blocks.size(); ++level) {
            CAPTURE(level);
            if (!exact || level == 0) CHECK(e.residuals[level + 1] < e.residuals[level]);
            std::vector<double> left = sum_of(e.form, std::span(e.blocks).first(level + 1));
            for (std::size_t i = 0; i < left.size(); ++i)
                left[i] = (static_cast<double>(w[i]) - left[i]) *
                          static_cast<double>(scales[i % static_cast<std::size_t>(shape.cols)]);
            CHECK(
                norm(left) ==
                doctest::Approx(e.residuals[level + 1]).epsilon(1e-3).scale(e.residuals[0] * 1e-4));
        }
    }
}

TEST_CASE("stack: once nothing is left that floats would show, the blocks that follow are zero") {
    Random random(9);
    const Encoded e(StackForm({32, 32}, 32), random.normals(32 * 32), {}, 32);
    CHECK(e.residuals.back() == 0);
    for (const double v : sum_of(e.form, std::span(e.blocks).last(1))) REQUIRE(v == 0);
}

TEST_CASE("stack: full rank and one block give the matrix, scaled or not") {
    Random random(5);
    for (const Shape2 shape : {Shape2{24, 31}, Shape2{31, 24}, Shape2{20, 20}}) {
        const std::vector<float> w = random.normals(shape.rows * shape.cols);
        std::vector<float> scales;
        for (std::int64_t c = 0; c < shape.cols; ++c) scales.push_back(0.01f + 3 * random.unit());
        const StackForm form(shape, std::min(shape.rows, shape.cols));
        for (const std::vector<float>& s : {std::vector<float>{}, scales}) {
            // In single precision.
            std::vector<float> magnitudes;
            for (std::size_t i = 0; i < w.size(); ++i)
                magnitudes.push_back(std::abs(w[i]) *
                                     (s.empty() ? 1 : s[i % static_cast<std::size_t>(shape.cols)]));
            Machine m(best_isa());
            const View view{reinterpret_cast<std::byte*>(magnitudes.data()), DType::kF32,
                            shape.rows, shape.cols, shape.cols};
            const LowRankFactors f = leading_factors(m.exec, view, {.rank = form.rank});
            for (std::int64_t r = 0; r < shape.rows; ++r) {
                for (std::int64_t c = 0; c < shape.cols; ++c) {
                    double sum = 0;
                    for (std::int64_t k = 0; k < form.rank; ++k)
                        sum +=
                            static_cast<double>(f.a[static_cast<std::size_t>(r * form.rank + k)]) *
                            static_cast<double>(f.b[static_cast<std::size_t>(c * form.rank + k)]);
                    const auto i = static_cast<std::size_t>(r * shape.cols + c);
                    REQUIRE(std::abs(sum - static_cast<double>(magnitudes[i])) < 2e-5);
                }
            }
            // Factors are rounded to 11 bits; the errors of `rank` products add up at random.
            const Encoded e(form, w, s, 1);
            CHECK(e.residuals[1] < 1e-3 * e.residuals[0]);
        }
    }
}

TEST_CASE("stack: factors keep as much of a matrix as its singular values say") {
    // w = sum of known, orthonormal parts: those of the largest singular values must be found.
    Random random(7);
    const std::int64_t rows = 90, cols = 60, known = 48, rank = 16;
    const auto orthonormal = [&](std::int64_t n) {
        std::vector<std::vector<double>> vectors;
        for (std::int64_t i = 0; i < known; ++i) {
            std::vector<double> v;
            for (std::int64_t c = 0; c < n; ++c) v.push_back(static_cast<double>(random.normal()));
            for (const auto& other : vectors) {
                const double part = std::inner_product(v.begin(), v.end(), other.begin(), 0.0);
                for (std::size_t c = 0; c < v.size(); ++c) v[c] -= part * other[c];
            }
            const double length = norm(v);
            for (double& x : v) x /= length;
            vectors.push_back(std::move(v));
        }
        return vectors;
    };
    const auto left = orthonormal(rows), right = orthonormal(cols);
    std::vector<float> w;
    double beyond = 0;  // squares of singular values past the rank
    for (std::int64_t k = rank; k < known; ++k) beyond += std::pow(0.95, 2 * k);
    for (std::size_t r = 0; r < 90; ++r) {
        for (std::size_t c = 0; c < 60; ++c) {
            double sum = 0;
            for (std::size_t k = 0; k < 48; ++k)
                sum += std::pow(0.95, static_cast<double>(k)) * left[k][r] * right[k][c];
            w.push_back(static_cast<float>(sum));
        }
    }
    Machine m(best_isa());
    const View view{reinterpret_cast<std::byte*>(w.data()), DType::kF32, rows, cols, cols};
    const auto error = [&](int iterations) {
        const LowRankFactors f =
            leading_factors(m.exec, view, {.rank = rank, .iterations = iterations});
        double squares = 0;
        for (std::size_t r = 0; r < 90; ++r) {
            for (std::size_t c = 0; c < 60; ++c) {
                double sum = 0;
                for (std::size_t k = 0; k < 16; ++k)
                    sum +=
                        static_cast<double>(f.a[r * 16 + k]) * static_cast<double>(f.b[c * 16 + k]);
                squares += std::pow(static_cast<double>(w[r * 60 + c]) - sum, 2);
            }
        }
        return std::sqrt(squares);
    };
    const double least = std::sqrt(beyond), usual = error(LowRankOptions{}.iterations);
    CHECK(usual > least * (1 - 1e-5));
    CHECK(usual < least * 1.005);
    CHECK(error(40) < least * (1 + 1e-5));
}

TEST_CASE("stack: products agree with double on every level, for few tokens and many") {
    Random random(11);
    struct Case {
        std::int64_t rows, cols, rank, levels;
    };
    for (const Case& c : {Case{37, 45, 16, 3}, Case{300, 136, 16, 2}, Case{64, 128, 7, 4},
                          Case{20, 260, 20, 2}, Case{1, 9, 1, 1}, Case{600, 33, 16, 1}}) {
        CAPTURE(c.rows);
        CAPTURE(c.cols);
        const StackForm form({c.rows, c.cols}, c.rank);
        std::vector<std::vector<std::byte>> memory;
        std::vector<ops::SignedBlock> blocks;
        for (std::int64_t level = 0; level < c.levels; ++level) {
            auto& bytes = memory.emplace_back(form.bytes);
            for (std::size_t i = 0; i < form.sign_bytes; ++i)
                bytes[i] = static_cast<std::byte>(random.unit() * 256);
            auto* factors = reinterpret_cast<std::uint16_t*>(bytes.data() + form.a);
            for (std::int64_t i = 0; i < (c.rows + c.cols) * c.rank; ++i)
                factors[i] = f32_to_f16(random.normal(100));
            const float scale = 1e-4f * (1 + random.unit());
            std::memcpy(bytes.data() + form.scale, &scale, sizeof scale);
            blocks.push_back(form.block(bytes.data()));
        }
        const std::vector<double> w = sum_of(form, blocks);
        for (const Isa isa : levels()) {
            CAPTURE(name(isa));
            Machine m(isa);
            std::vector<float> room(ops::stack_room_bytes(form.shape) / sizeof(float));
            const ops::Stack stack{form.shape, form.rank, blocks, room};
            std::vector<float> all(w.size());
            ops::stack_rows(m.exec, stack, {0, c.rows}, all);
            for (std::size_t i = 0; i < w.size(); ++i)
                REQUIRE(std::abs(static_cast<double>(all[i]) - w[i]) < 2e-4 * std::sqrt(16.0 * 3));
            for (const std::int64_t tokens : {1, 2, 3, 4, 9}) {
                CAPTURE(tokens);
                const std::vector<float> x = random.normals(tokens * c.cols);
                const std::vector<float> before = random.normals(tokens * c.rows);
                const std::vector<float> bias = random.normals(c.rows);
                Guarded in(m.exec, x, tokens), out(m.exec, before, tokens), b(m.exec, bias, 1);
                ops::stack_matmul(m.exec, in.view(), {&stack, out.view(), b.view(), true});
                CHECK(out.guards_hold());
                for (std::int64_t t = 0; t < tokens; ++t) {
                    for (std::int64_t r = 0; r < c.rows; ++r) {
                        double want =
                            static_cast<double>(before[static_cast<std::size_t>(t * c.rows + r)] +
                                                bias[static_cast<std::size_t>(r)]);
                        double size = std::abs(want);
                        for (std::int64_t k = 0; k < c.cols; ++k) {
                            const double term =
                                static_cast<double>(x[static_cast<std::size_t>(t * c.cols + k)]) *
                                w[static_cast<std::size_t>(r * c.cols + k)];
                            want += term, size += std::abs(term);
                        }
                        // Terms cancel within a weight, too: its factors are summed first or last.
                        REQUIRE(std::abs(out.at(t, r) - want) < 1e-5 * (size + 10));
                    }
                }
            }
        }
    }
}
