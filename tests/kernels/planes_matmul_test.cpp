// SPDX-License-Identifier: Apache-2.0
// Products of bit planes against whole numbers, and input with one scale for a token.
#include <doctest/doctest.h>

#include <cmath>

#include "harness.h"

using namespace thimble;
using namespace thimble::test;

namespace {

// A matrix of layout bipolar with random codes, scales of 1 and 2, and its values.
struct Bipolar {
    Bipolar(Shape2 shape, int bits, std::int64_t group, Random& random) {
        const auto rows = static_cast<std::uint64_t>(shape.rows);
        const auto cols = static_cast<std::uint64_t>(shape.cols);
        PlaneInfo words, scales;
        words.name = "planes", words.dtype = DType::kU8;
        words.dims = {rows, cols * static_cast<std::uint64_t>(bits) / 8};
        scales.name = "scales", scales.dtype = DType::kF16;
        scales.dims = {rows, cols / static_cast<std::uint64_t>(group)};
        const PackedForm form =
            format_of(LayoutId::k_bipolar).form(shape, std::vector{words, scales});
        bytes.resize(form.bytes(shape.rows));
        view = form.view(shape, bytes.data());
        for (std::size_t i = 0; i < form.planes[0].bytes; ++i)
            bytes[i] = static_cast<std::byte>(random.unit() * 256);
        auto* of_groups =
            reinterpret_cast<std::uint16_t*>(bytes.data() + form.plane_offset(1, shape.rows));
        for (std::size_t i = 0; i < form.planes[1].bytes / 2; ++i)
            of_groups[i] = random.unit() < 0.5f ? 0x3c00 : 0x4000;
        // Bit b of column c stands in word b of its tile of 32 columns.
        for (std::int64_t r = 0; r < shape.rows; ++r) {
            const auto* row = reinterpret_cast<const std::uint8_t*>(view.row(r, 0));
            for (std::int64_t c = 0; c < shape.cols; ++c) {
                int value = 0;
                for (int b = 0; b < bits; ++b) {
                    const std::uint8_t byte = row[c / 32 * 4 * bits + 4 * b + c % 32 / 8];
                    value += (byte >> (c % 8) & 1 ? 1 : -1) << b;
                }
                const bool twice = of_groups[(r * shape.cols + c) / group] == 0x4000;
                values.push_back(twice ? 2 * value : value);
            }
        }
    }
    std::vector<std::byte> bytes;
    PackedView view;
    std::vector<std::int64_t> values;
};

Activations planes_of(int bits) {
    return static_cast<Activations>(static_cast<int>(Activations::kBits1) + bits - 1);
}

}  // namespace

TEST_CASE("bit planes: all 64 pairs of widths multiply exactly, as whole numbers do") {
    Random random(31);
    for (int bits = 1; bits <= 8; ++bits) {
        for (int x_bits = 1; x_bits <= 8; ++x_bits) {
            for (const std::int64_t cols : {32, 96, 192, 1088}) {  // sums stay below 2^24
                CAPTURE(bits);
                CAPTURE(x_bits);
                CAPTURE(cols);
                const std::int64_t rows = 19, tokens = 6;
                const Bipolar w({rows, cols}, bits, cols > 96 ? 64 : cols, random);
                // Odd numbers, the largest among them: their scale is one. One bit: the mean.
                const int most = (1 << x_bits) - 1;
                std::vector<float> x;
                for (std::int64_t i = 0; i < tokens * cols; ++i) {
                    const int u = static_cast<int>(random.unit() * static_cast<float>(most + 1));
                    const int code = i % cols == 5 ? most : std::min(u, most);
                    x.push_back(static_cast<float>(2 * code - most));
                }
                for (const Isa isa : levels()) {
                    CAPTURE(name(isa));
                    Machine m(isa);
                    m.exec.activations = planes_of(x_bits);
                    Guarded in(m.exec, x, tokens), out(DType::kF32, tokens, rows);
                    ops::MatmulInput input(m.exec, in.view());
                    ops::matmul(m.exec, input,
                                ops::Matmul{w.view, out.view(), std::nullopt, false});
                    CHECK(out.guards_hold());
                    for (std::int64_t t = 0; t < tokens; ++t) {
                        for (std::int64_t r = 0; r < rows; ++r) {
                            std::int64_t want = 0;
                            for (std::int64_t k = 0; k < cols; ++k)
                                want += static_cast<std::int64_t>(
                                            x[static_cast<std::size_t>(t * cols + k)]) *
                                        w.values[static_cast<std::size_t>(r * cols + k)];
                            REQUIRE(out.at(t, r) == static_cast<double>(want));
                        }
                    }
                }
            }
        }
    }
}

TEST_CASE("bit planes: scales, bias, wide rows and rounded input agree with double") {
    for (const int x_bits : {2, 4, 8}) {
        for (const char* spec : {"bipolar:bits=3", "bipolar:bits=2,group=64", "bipolar:bits=5"}) {
            CAPTURE(x_bits);
            CAPTURE(spec);
            const std::int64_t rows = 45, cols = 1184 / 2 + 48, tokens = 5;  // 20 tiles
            struct Sink : PlaneSink {
                std::vector<std::byte> planes[kMaxPlanes];
                void append(int plane, std::span<const std::byte> part) override {
                    planes[plane].insert(planes[plane].end(), part.begin(), part.end());
                }
            } sink;
            const SharedFormat format = make_format(spec, "test");
            const std::vector<float> weights = Random(5).normals(rows * cols, 0.05f);
            format->encoder({rows, cols}, {})->encode(0, weights, sink);
            const PackedForm form = form_of(*format, {rows, cols});
            Matrix w;
            w.bytes.resize(form.bytes(rows));
            w.view = form.view({rows, cols}, w.bytes.data());
            for (std::size_t p = 0; p < 2; ++p)
                std::copy(
                    sink.planes[p].begin(), sink.planes[p].end(),
                    w.bytes.begin() + static_cast<std::ptrdiff_t>(form.plane_offset(p, rows)));
            decode_all(w);
            const std::vector<float> x = Random(6).normals(tokens * cols);
            const std::vector<float> bias = Random(7).normals(rows);
            for (const Isa isa : levels()) {
                CAPTURE(name(isa));
                Machine m(isa);
                m.exec.activations = planes_of(x_bits);
                Guarded in(m.exec, x, tokens), out(DType::kF32, tokens, rows);
                Guarded b(m.exec, bias, 1);
                ops::MatmulInput input(m.exec, in.view());
                ops::matmul(m.exec, input, ops::Matmul{w.view, out.view(), b.view(), false});
                for (std::int64_t t = 0; t < tokens; ++t) {
                    const float* row = x.data() + t * cols;
                    float peak = 0;
                    for (std::int64_t k = 0; k < cols; ++k)
                        peak = std::max(peak, std::fabs(row[k]));
                    const int most = (1 << x_bits) - 1;
                    const double scale = static_cast<double>(peak) / most;
                    double misfit = 0;
                    std::vector<double> rounded;
                    for (std::int64_t k = 0; k < cols; ++k) {
                        const double u = std::clamp(
                            std::nearbyint((static_cast<double>(row[k]) / scale + most) / 2), 0.0,
                            static_cast<double>(most));
                        rounded.push_back(scale * (2 * u - most));
                        misfit = std::max(misfit,
                                          std::fabs(rounded.back() - static_cast<double>(row[k])));
                    }
                    CHECK(misfit <= scale * 1.0001);
                    for (std::int64_t r = 0; r < rows; ++r) {
                        double want = static_cast<double>(bias[static_cast<std::size_t>(r)]);
                        double size = 1;
                        for (std::int64_t k = 0; k < cols; ++k) {
                            const double p = rounded[static_cast<std::size_t>(k)] *
                                             w.values[static_cast<std::size_t>(r * cols + k)];
                            want += p, size += std::fabs(p);
                        }
                        // A value between two codes may round to either.
                        const double bound = 1e-5 * size + 2 * scale * 0.2;
                        REQUIRE(std::fabs(out.at(t, r) - want) <= bound);
                    }
                }
            }
        }
    }
}

TEST_CASE("8-bit input with one scale for a token is what that scale rounds to") {
    const std::int64_t rows = 37, cols = 768, tokens = 11;
    const Matrix w = make_matrix(LayoutId::k_tq2_0, {rows, cols}, 120);
    std::vector<float> x = Random(8).normals(tokens * cols);
    for (std::int64_t k = 0; k < cols; ++k) x[static_cast<std::size_t>(k)] *= 1e-9f;  // below 1e-5
    std::vector<double> rounded(x.size());
    for (std::int64_t t = 0; t < tokens; ++t) {
        float peak = 1e-5f;
        for (std::int64_t k = 0; k < cols; ++k)
            peak = std::max(peak, std::fabs(x[static_cast<std::size_t>(t * cols + k)]));
        for (std::int64_t k = 0; k < cols; ++k) {
            const auto i = static_cast<std::size_t>(t * cols + k);
            rounded[i] = static_cast<double>(peak / 127.0f) *
                         static_cast<double>(std::nearbyint(x[i] * (127.0f / peak)));
        }
    }
    for (const Isa isa : levels()) {
        CAPTURE(name(isa));
        Machine m(isa);
        m.exec.activations = Activations::kI8Token;
        std::vector<std::byte> bytes(ops::packed_bytes(LayoutId::k_tq2_0_x16, {rows, cols}),
                                     std::byte{0xff});
        const PackedView resident =
            ops::repack(m.exec, w.view, LayoutId::k_tq2_0_x16, bytes.data());
        Guarded in(m.exec, x, tokens), out(DType::kF32, tokens, rows);
        ops::MatmulInput input(m.exec, in.view());
        ops::matmul(m.exec, input, ops::Matmul{resident, out.view(), std::nullopt, false});
        for (std::int64_t t = 0; t < tokens; ++t) {
            for (std::int64_t r = 0; r < rows; ++r) {
                double want = 0, size = 0;
                for (std::int64_t k = 0; k < cols; ++k) {
                    const double p = rounded[static_cast<std::size_t>(t * cols + k)] *
                                     w.values[static_cast<std::size_t>(r * cols + k)];
                    want += p, size += std::fabs(p);
                }
                REQUIRE(std::fabs(out.at(t, r) - want) <= 1e-6 * size + 1e-20);
            }
        }
    }
}
