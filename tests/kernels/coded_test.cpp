// SPDX-License-Identifier: Apache-2.0
// Matrices whose exponents are coded are multiplied as they lie: the same bits as from plain ones.
#include <doctest/doctest.h>

#include <algorithm>
#include <memory>

#include "codec/exponent_coder.h"
#include "operation.h"
#include "ops/exponents.h"
#include "ops/gradients.h"

using namespace thimble;
using namespace thimble::test;

namespace {

// Rows of bfloat16, plain and coded.
struct Coded {
    Coded(Shape2 shape, std::uint64_t seed, Isa isa)
        : plain(make_matrix(LayoutId::k_bf16, shape, seed)), chunks{shape.rows, shape.cols} {
        const auto* numbers = reinterpret_cast<const std::uint16_t*>(plain.bytes.data());
        ExponentCounts counts{};
        count_exponents({numbers, static_cast<std::size_t>(chunks.numbers())}, counts);
        const ExponentCode code = best_code(counts);
        const ExponentCoder coder(code);
        std::vector<std::uint16_t> woven(static_cast<std::size_t>(chunks.strip_numbers())), some;
        for (std::int64_t s = 0; s < chunks.strips(); ++s) {
            chunks.weave(s, numbers + s * chunks.strip_numbers(), woven.data());
            for (std::int64_t c = 0; c < chunks.chunks_of_strip(); ++c) {
                const auto from = static_cast<std::size_t>(chunks.start(s, c));
                const auto until = static_cast<std::size_t>(chunks.start(s, c + 1));
                const auto part = std::span(woven).subspan(from, until - from);
                coder.encode(part, some);
                words.insert(words.end(), some.begin(), some.end());
                starts.push_back(static_cast<std::uint32_t>(words.size()));
                for (const std::uint16_t x : part) rest.push_back(rest_of_bf16(x));
            }
        }
        matrix = std::make_unique<ops::CodedMatrix>(
            code, chunks,
            ops::CodedStrip{words.data(), words.data() + words.size(), rest.data(), starts.data()},
            isa);
        view = plain.view;
        view.planes[0].data = nullptr;
        view.coded = matrix.get();
    }
    Matrix plain;
    ExponentChunks chunks;
    std::vector<std::uint16_t> words;
    std::vector<std::uint32_t> starts = {0};
    std::vector<std::uint8_t> rest;
    std::unique_ptr<ops::CodedMatrix> matrix;
    PackedView view;
};

// Strips of several groups, of one, of one in several chunks; rows that are no whole group.
const std::vector<Shape2> kShapes = {{1, 32},    {16, 64},   {37, 576},  {70, 1536}, {100, 2048},
                                     {40, 2560}, {20, 8192}, {9, 40000}, {130, 96},  {150, 576}};

Guarded product(Machine& m, const PackedView& weight, const std::vector<float>& x,
                std::int64_t tokens, bool accumulate) {
    Guarded in(m.exec, x, tokens);
    Guarded out(m.exec, std::vector<float>(static_cast<std::size_t>(tokens * weight.shape.rows), 3),
                tokens);
    ops::MatmulInput input(m.exec, in.view());
    ops::matmul(m.exec, input, ops::Matmul{weight, out.view(), std::nullopt, accumulate});
    CHECK(out.guards_hold());
    return out;
}

}  // namespace

TEST_CASE("coded matrices: chunks cover every number once") {
    for (const Shape2& shape : kShapes) {
        CAPTURE(shape.rows);
        CAPTURE(shape.cols);
        const ExponentChunks chunks{shape.rows, shape.cols};
        std::int64_t sum = 0;
        for (std::int64_t s = 0; s < chunks.strips(); ++s) {
            CHECK(chunks.start(s, 0) == 0);
            for (std::int64_t c = 0; c < chunks.chunks_of_strip(); ++c) {
                const std::int64_t count = chunks.start(s, c + 1) - chunks.start(s, c);
                CHECK(count >= 0);
                CHECK(count <= ExponentCode::kChunk);
                sum += count;
            }
        }
        CHECK(sum == shape.rows * shape.cols);
    }
}

TEST_CASE("coded matrices: groups of rows are those that plain ones are repacked to") {
    for (const Shape2& shape : kShapes) {
        CAPTURE(shape.rows);
        CAPTURE(shape.cols);
        Machine m(best_isa());
        const Coded coded(shape, 5, m.exec.isa);
        std::vector<std::byte> whole(ops::packed_bytes(LayoutId::k_bf16_x16, shape));
        (void)ops::repack(m.exec, coded.plain.view, LayoutId::k_bf16_x16, whole.data());
        std::vector<std::uint16_t> strip(coded.matrix->strip_bytes() / 2);
        std::size_t at = 0;
        for (std::int64_t s = 0; s < coded.chunks.strips(); ++s) {
            std::fill(strip.begin(), strip.end(), std::uint16_t{0xffff});
            REQUIRE(coded.matrix->decode_groups(s, 1, strip.data()));
            const std::size_t bytes =
                ops::packed_bytes(LayoutId::k_bf16_x16, {coded.chunks.rows_of(s), shape.cols});
            REQUIRE(std::memcmp(whole.data() + at, strip.data(), bytes) == 0);
            at += bytes;
        }
        CHECK(at == whole.size());
    }
}

TEST_CASE("coded matrices: products and rows have the bits of plain ones") {
    for (const Shape2& shape : kShapes) {
        for (const Isa isa : levels()) {
            CAPTURE(shape.rows);
            CAPTURE(shape.cols);
            CAPTURE(name(isa));
            Machine m(isa);
            const Coded coded(shape, 6, isa);
            std::vector<std::byte> bytes(ops::packed_bytes(LayoutId::k_bf16_x16, shape));
            const PackedView plain =
                ops::repack(m.exec, coded.plain.view, LayoutId::k_bf16_x16, bytes.data());
            for (const std::int64_t tokens : {1, 5}) {
                const std::vector<float> x = Random(7).normals(tokens * shape.cols);
                for (const bool accumulate : {false, true}) {
                    Guarded want = product(m, plain, x, tokens, accumulate);
                    Guarded got = product(m, coded.view, x, tokens, accumulate);
                    CHECK(got.same_bits(want));
                }
            }
            const RowRange rows{shape.rows / 3, shape.rows - shape.rows / 3};
            Guarded want(DType::kF32, rows.count, shape.cols), got = want;
            ops::decode_rows(m.exec, coded.plain.view, rows, want.view());
            ops::decode_rows(m.exec, coded.view, rows, got.view());
            CHECK(got.same_bits(want));
        }
    }
}

TEST_CASE("coded matrices: several of one input, some plain") {
    Machine m(best_isa(), 3);
    const Coded a({96, 576}, 8, m.exec.isa), b({40, 576}, 9, m.exec.isa);
    const Matrix plain = make_matrix(LayoutId::k_bf16, {64, 576}, 10);
    std::vector<std::byte> bytes(ops::packed_bytes(LayoutId::k_bf16_x16, {64, 576}));
    const PackedView c = ops::repack(m.exec, plain.view, LayoutId::k_bf16_x16, bytes.data());
    const std::vector<float> x = Random(11).normals(2 * 576);
    Guarded in(m.exec, x, 2);
    Guarded one(DType::kF32, 2, 96), two(DType::kF32, 2, 64), three(DType::kF32, 2, 40);
    ops::MatmulInput input(m.exec, in.view());
    const std::vector<ops::Matmul> problems = {{a.view, one.view(), std::nullopt, false},
                                               {c, two.view(), std::nullopt, false},
                                               {b.view, three.view(), std::nullopt, false}};
    ops::matmul(m.exec, input, problems);
    CHECK(one.same_bits(std::vector{product(m, a.view, x, 2, false)}[0]));
    CHECK(two.same_bits(std::vector{product(m, c, x, 2, false)}[0]));
    CHECK(three.same_bits(std::vector{product(m, b.view, x, 2, false)}[0]));
}

TEST_CASE("coded matrices: dense products and their slices have the bits of plain ones") {
    const Shape2 shape{150, 576};
    const Coded coded(shape, 12, best_isa());
    for (const Activations kind : {Activations::kF32, Activations::kBf16}) {
        Machine m(best_isa());
        m.exec.products = Products::kDense, m.exec.activations = kind;
        const std::vector<float> x = Random(13).normals(7 * shape.cols);
        Guarded want = product(m, coded.plain.view, x, 7, false);
        CHECK(product(m, coded.view, x, 7, false).same_bits(want));
        const RowRange rows{50, 70};
        Guarded part = product(m, coded.plain.view.slice_rows(rows), x, 7, false);
        CHECK(product(m, coded.view.slice_rows(rows), x, 7, false).same_bits(part));
        const std::vector<float> dy = Random(14).normals(7 * shape.rows);
        const auto back = [&](const PackedView& weight) {
            Guarded from(m.exec, dy, 7), dx(DType::kF32, 7, shape.cols);
            ops::MatmulInput input(m.exec, from.view());
            ops::matmul_t(m.exec, input, weight, dx.view(), false);
            return dx;
        };
        Guarded dx = back(coded.plain.view);
        CHECK(back(coded.view).same_bits(dx));
    }
}

TEST_CASE("coded matrices: what was damaged in memory is told") {
    Machine m(best_isa());
    Coded coded({64, 576}, 15, m.exec.isa);
    coded.words[0] ^= 1;  // how many exponents have no code
    const std::vector<float> x = Random(16).normals(576);
    CHECK_THROWS_WITH_AS(product(m, coded.view, x, 1, false), doctest::Contains("damaged"), Error);
}
