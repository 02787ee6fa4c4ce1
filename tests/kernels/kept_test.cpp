// SPDX-License-Identifier: Apache-2.0
// Feed-forward blocks that drop small activations, against double arithmetic over the channels that
// the same activations keep.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "harness.h"
#include "ops/kept.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr LayoutId kFloats[] = {LayoutId::k_f32, LayoutId::k_f16, LayoutId::k_bf16};
constexpr ops::Gate kGates[] = {ops::Gate::kSilu, ops::Gate::kGeluTanh};

// What lies as [rows, cols], as [cols, rows].
std::vector<std::byte> transposed(Machine& m, const Matrix& matrix, PackedView& view) {
    const Shape2 shape = matrix.view.shape, turned{shape.cols, shape.rows};
    std::vector<std::byte> bytes(matrix.bytes.size(), std::byte{0xff});
    for (std::int64_t first = 0; first < shape.rows; first += 7) {
        const std::int64_t count = std::min<std::int64_t>(7, shape.rows - first);
        ops::transpose_piece(m.exec, matrix.view.slice_rows({first, count}), first, shape.rows,
                             bytes.data());
    }
    view = block_form(matrix.view.layout, turned).view(turned, bytes.data());
    return bytes;
}

struct Block {
    Block(LayoutId layout, const std::array<std::int64_t, 3>& sizes)
        : in(sizes[0]),
          channels(sizes[1]),
          out(sizes[2]),
          up(make_matrix(layout, {channels, in}, 31)),
          down(make_matrix(layout, {out, channels}, 32)),
          x(Random(33).normals(in)),
          gate(Random(34).normals(channels, 2)) {}
    std::int64_t in, channels, out;
    Matrix up, down;
    std::vector<float> x, gate, least;
};

// Of one row.
std::vector<float> activations(Machine& m, ops::Gate act, const std::vector<float>& gate) {
    Guarded in(m.exec, gate, 1), a(m.exec.dtype(), 1, std::ssize(gate));
    ops::activation(m.exec, act, in.view(), a.view());
    CHECK(a.guards_hold());
    std::vector<float> values;
    for (std::int64_t i = 0; i < std::ssize(gate); ++i)
        values.push_back(static_cast<float>(a.at(0, i)));
    return values;
}

Guarded run(Machine& m, ops::Gate act, const Block& b, const PackedView& down, bool accumulate) {
    m.poison();
    Guarded x(m.exec, b.x, 1), gate(m.exec, b.gate, 1), least(m.exec, b.least, 1);
    Guarded y(m.exec.dtype(), 1, b.out);
    for (std::int64_t i = 0; accumulate && i < b.out; ++i) y.set(0, i, static_cast<double>(i % 5));
    ops::kept_ffn(
        m.exec, {act, x.view(), gate.view(), least.view(), b.up.view, down, y.view(), accumulate});
    CHECK(y.guards_hold());
    return y;
}

// The sum for output `o`, and what bounds the rounding of its terms.
std::pair<double, double> expected(const Block& b, const std::vector<float>& a, std::int64_t o) {
    double sum = 0, size = 0;
    for (std::int64_t c = 0; c < b.channels; ++c) {
        const auto i = static_cast<std::size_t>(c);
        if (std::abs(a[i]) <= b.least[i]) continue;
        double u = 0, u_size = 0;
        for (std::int64_t k = 0; k < b.in; ++k) {
            const double term = b.up.values[static_cast<std::size_t>(c * b.in + k)] *
                                double{b.x[static_cast<std::size_t>(k)]};
            u += term, u_size += std::abs(term);
        }
        const double w = b.down.values[static_cast<std::size_t>(o * b.channels + c)];
        sum += double{a[i]} * u * w;
        size += std::abs(double{a[i]} * u_size * w);
    }
    return {sum, size};
}

void check_block(Isa isa, LayoutId layout, ops::Gate act, Block& b) {
    CAPTURE(name(isa));
    CAPTURE(layout_info(layout).name);
    Machine m(isa, 1);
    PackedView down;
    const std::vector<std::byte> bytes = transposed(m, b.down, down);
    const std::vector<float> a = activations(m, act, b.gate);
    for (const bool accumulate : {false, true}) {
        Guarded got = run(m, act, b, down, accumulate);
        for (std::int64_t o = 0; o < b.out; ++o) {
            const auto [sum, size] = expected(b, a, o);
            const double want = sum + (accumulate ? static_cast<double>(o % 5) : 0);
            const double terms = static_cast<double>(b.in + b.channels);
            REQUIRE(
                (std::abs(got.at(0, o) - want) <= kEpsilon * (4 * std::sqrt(terms) * size + 8)));
        }
        for (const int threads : {2, 3}) {
            Machine more(isa, threads);
            Guarded again = run(more, act, b, down, accumulate);
            CHECK(again.same_bits(got));
        }
    }
}

}  // namespace

TEST_CASE("kept channels: the rows of the list give what all rows and zeros do") {
    for (const Isa isa : levels()) {
        for (const LayoutId layout : kFloats) {
            for (const auto& sizes :
                 {std::array<std::int64_t, 3>{1, 1, 1}, {37, 70, 19}, {64, 1000, 48}}) {
                CAPTURE(sizes[1]);
                Block b(layout, sizes);
                for (const ops::Gate act : kGates) {
                    Machine m(isa, 1);
                    const std::vector<float> a = activations(m, act, b.gate);
                    b.least.assign(a.size(), 0);  // nothing but zeros goes
                    check_block(isa, layout, act, b);
                    std::vector<float> magnitudes;
                    for (const float v : a) magnitudes.push_back(std::abs(v));
                    std::sort(magnitudes.begin(), magnitudes.end());
                    b.least.assign(a.size(), magnitudes[magnitudes.size() / 2]);  // some, and a tie
                    check_block(isa, layout, act, b);
                    b.least.assign(a.size(), std::numeric_limits<float>::max());  // all
                    check_block(isa, layout, act, b);
                }
            }
        }
    }
}

TEST_CASE("kept channels: a tie drops, the next float below keeps, and zero is dense") {
    for (const Isa isa : levels()) {
        CAPTURE(name(isa));
        for (const ops::Gate act : kGates) {
            for (const std::int64_t n : {1, 15, 16, 100}) {
                Machine m(isa, 1);
                const std::vector<float> gate = Random(5).normals(n, 2), up = Random(6).normals(n);
                const std::vector<float> a = activations(m, act, gate);
                std::vector<float> ties, below, zeros(a.size());
                for (const float v : a) {
                    ties.push_back(std::abs(v));
                    below.push_back(std::nextafter(std::abs(v), 0.0F));
                }
                const auto above = [&](const std::vector<float>& least) {
                    Guarded g(m.exec, gate, 1), u(m.exec, up, 1), l(m.exec, least, 1);
                    Guarded out(DType::kF32, 1, n);
                    ops::glu_above(m.exec, act, g.view(), u.view(), l.view(), out.view());
                    CHECK(out.guards_hold());
                    return out;
                };
                Guarded g(m.exec, gate, 1), u(m.exec, up, 1), dense(DType::kF32, 1, n);
                ops::glu(m.exec, act, g.view(), u.view(), dense.view());
                Guarded at_zero = above(zeros), kept = above(below), dropped = above(ties);
                CHECK(at_zero.same_bits(dense));
                CHECK(kept.same_bits(dense));
                for (std::int64_t i = 0; i < n; ++i) CHECK(dropped.at(0, i) == 0);
            }
        }
    }
}

TEST_CASE("kept channels: the reference device drops by its own activations") {
    Machine m(Isa::kPortable, 1, 1 << 20, Device::kRef);
    const std::vector<float> gate = {-3, -1, 0, 0.5F, 2}, up = {1, 2, 3, 4, 5};
    const std::vector<float> least = {0.1F, 0.3F, 0, 0.3F, 3.0e38F};
    Guarded g(m.exec, gate, 1), u(m.exec, up, 1), l(m.exec, least, 1), out(DType::kF64, 1, 5);
    ops::glu_above(m.exec, ops::Gate::kSilu, g.view(), u.view(), l.view(), out.view());
    const auto silu = [](double x) { return x / (1 + std::exp(-x)); };
    CHECK(out.at(0, 0) == doctest::Approx(silu(-3)).epsilon(1e-12));
    CHECK(out.at(0, 1) == 0);  // |silu(-1)| = 0.269
    CHECK(out.at(0, 2) == 0);
    CHECK(out.at(0, 3) == doctest::Approx(4 * silu(0.5)).epsilon(1e-12));
    CHECK(out.at(0, 4) == 0);
}

TEST_CASE("kept channels: a matrix that lies channel by channel is packed as the other way round") {
    for (const LayoutId layout : kFloats) {
        for (const Shape2 shape : {Shape2{1, 3}, Shape2{48, 70}, Shape2{37, 65}}) {
            CAPTURE(shape.rows);
            Machine m(Isa::kPortable, 2);
            const Matrix w = make_matrix(layout, shape, 40);
            const LayoutId twin = *ops::resident_layout(layout);
            std::vector<std::byte> one(ops::packed_bytes(twin, shape), std::byte{0xff});
            std::vector<std::byte> two = one;
            PackedView turned;
            const std::vector<std::byte> bytes = transposed(m, w, turned);
            const PackedView a = ops::repack(m.exec, w.view, twin, one.data());
            const PackedView b = ops::repack_transposed(m.exec, turned, twin, two.data());
            CHECK(one == two);
            CHECK(a.shape.rows == b.shape.rows);
            CHECK(a.planes[0].row_bytes == b.planes[0].row_bytes);
            CHECK(a.planes[0].bytes == b.planes[0].bytes);
        }
    }
}
