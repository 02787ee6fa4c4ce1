// SPDX-License-Identifier: Apache-2.0
// Layouts of several planes against their definition, weight by weight.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "core/error.h"
#include "format/weight_format.h"
#include "kernels/layout/half.h"
#include "kernels/layout/rng.h"
#include "ops/ops.h"
#include "tests/kernels/harness.h"

using namespace thimble;

namespace {

PlaneInfo plane(const char* name, DType dtype, std::vector<std::uint64_t> dims) {
    PlaneInfo info;
    info.name = name, info.dtype = dtype, info.dims = std::move(dims);
    return info;
}

struct Planes {
    PackedForm form;
    std::vector<std::byte> bytes;
    PackedView view;

    Planes(const char* format, Shape2 shape, const std::vector<PlaneInfo>& planes)
        : form(weight_formats().get(format, "test").form(shape, planes)),
          bytes(form.bytes(shape.rows)),
          view(form.view(shape, bytes.data())) {}
    template <class T>
    T* plane_at(std::size_t i) {
        return reinterpret_cast<T*>(bytes.data() + form.plane_offset(i, view.shape.rows));
    }
};

// Codes one by one from a row's bits.
int code_at(const std::uint8_t* row, int bits, std::int64_t k) {
    int code = 0;
    for (int b = 0; b < bits; ++b) {
        const std::int64_t at = k * bits + b;
        code |= (row[at / 8] >> (at % 8) & 1) << b;
    }
    return code;
}

std::vector<double> decoded(const PackedView& view, RowRange rows) {
    std::vector<double> out(static_cast<std::size_t>(rows.count * view.shape.cols), NAN);
    format_of(view.layout)
        .decode(view, rows,
                {out.data(), DType::kF64, rows.count, view.shape.cols, view.shape.cols});
    return out;
}

// A matrix of every kind with random planes, and its weights by definition.
void check_affine(int bits, std::int64_t group, DType scale, bool zeros, bool ordered) {
    const Shape2 shape{5, 192};
    const auto rows = static_cast<std::uint64_t>(shape.rows);
    const auto cols = static_cast<std::uint64_t>(shape.cols);
    const std::uint64_t groups = cols / static_cast<std::uint64_t>(group);
    std::vector<PlaneInfo> infos = {
        plane("scales", scale, {rows, groups}),
        plane("codes", DType::kU8, {rows, cols * static_cast<std::uint64_t>(bits) / 8})};
    if (zeros) infos.push_back(plane("zeros", DType::kU8, {rows, groups}));
    if (!ordered) infos.push_back(plane("groups", DType::kI16, {cols}));
    Planes m("affine", shape, infos);
    test::Random random(static_cast<std::uint64_t>(bits));
    const auto byte = [&] { return static_cast<std::uint8_t>(random.unit() * 256); };
    for (std::size_t i = 0; i < m.form.planes[0].bytes; ++i)
        m.plane_at<std::uint8_t>(0)[i] = byte();
    std::vector<float> scales(rows * groups);
    for (std::size_t i = 0; i < scales.size(); ++i) {
        const float s = 0.01f + random.unit();
        if (scale == DType::kF32) scales[i] = m.plane_at<float>(1)[i] = s;
        if (scale == DType::kF16)
            scales[i] = f16_to_f32(m.plane_at<std::uint16_t>(1)[i] = f32_to_f16(s));
        if (scale == DType::kBF16)
            scales[i] = bf16_to_f32(m.plane_at<std::uint16_t>(1)[i] = f32_to_bf16(s));
    }
    for (std::size_t i = 0; zeros && i < rows * groups; ++i)
        m.plane_at<std::uint8_t>(2)[i] = static_cast<std::uint8_t>(byte() % (1 << bits));
    for (std::size_t k = 0; !ordered && k < cols; ++k)
        m.plane_at<std::uint16_t>(3)[k] = static_cast<std::uint16_t>(byte() % groups);
    format_of(LayoutId::k_affine).verify(m.view, {0, shape.rows});

    const std::vector<double> got = decoded(m.view, {0, shape.rows});
    for (std::uint64_t r = 0; r < rows; ++r) {
        const auto* codes = m.plane_at<std::uint8_t>(0) + r * m.form.planes[0].row_bytes;
        for (std::uint64_t k = 0; k < cols; ++k) {
            const std::uint64_t g = r * groups + (ordered ? k / static_cast<std::uint64_t>(group)
                                                          : m.plane_at<std::uint16_t>(3)[k]);
            const int zero = zeros ? m.plane_at<std::uint8_t>(2)[g] : 1 << (bits - 1);
            const int code = code_at(codes, bits, static_cast<std::int64_t>(k));
            const double want = static_cast<double>(scales[g]) * (code - zero);
            if (got[r * cols + k] != want)
                FAIL("bits ", bits, " row ", r, " column ", k, ": ", got[r * cols + k], " not ",
                     want);
        }
    }
    const std::vector<double> part = decoded(m.view, {2, 2});
    CHECK(std::memcmp(part.data(), got.data() + 2 * cols, part.size() * sizeof(double)) == 0);
}

Exit refusal(const char* format, Shape2 shape, const std::vector<PlaneInfo>& planes) {
    try {
        (void)weight_formats().get(format, "test").form(shape, planes);
    } catch (const Error& e) {
        return e.exit();
    }
    return Exit::kDone;
}

}  // namespace

TEST_CASE("affine: weights are scale times code less zero point, for all bits, groups and scales") {
    for (const int bits : {2, 3, 4, 5, 6, 7, 8}) {
        for (const std::int64_t group : {16, 32, 64, 96, 192}) {
            for (const DType scale : {DType::kF32, DType::kF16, DType::kBF16}) {
                for (const bool zeros : {false, true}) {
                    for (const bool ordered : {false, true})
                        check_affine(bits, group, scale, zeros, ordered);
                }
            }
        }
    }
}

TEST_CASE("planes: every level multiplies what decode says") {
    for (const Isa isa : test::levels()) {
        test::Machine machine(isa);
        machine.exec.activations = Activations::kF32;
        const Shape2 shape{70, 1184};  // two pieces, and rows that are no multiple of a group
        const auto rows = static_cast<std::uint64_t>(shape.rows);
        const auto cols = static_cast<std::uint64_t>(shape.cols);
        Planes m("affine", shape,
                 {plane("codes", DType::kU8, {rows, cols / 2}),
                  plane("scales", DType::kF16, {rows, cols / 32}),
                  plane("zeros", DType::kU8, {rows, cols / 32})});
        test::Random random(5);
        for (std::size_t i = 0; i < m.form.planes[0].bytes; ++i)
            m.plane_at<std::uint8_t>(0)[i] = static_cast<std::uint8_t>(random.unit() * 256);
        for (std::size_t i = 0; i < rows * cols / 32; ++i) {
            m.plane_at<std::uint16_t>(1)[i] = f32_to_f16(0.01f * random.unit());
            m.plane_at<std::uint8_t>(2)[i] = static_cast<std::uint8_t>(random.unit() * 16);
        }
        const std::vector<double> w = decoded(m.view, {0, shape.rows});
        const std::int64_t tokens = 3;
        test::Guarded x(machine.exec, random.normals(tokens * shape.cols), tokens);
        test::Guarded y(DType::kF32, tokens, shape.rows);
        ops::MatmulInput input(machine.exec, x.view());
        ops::matmul(machine.exec, input, ops::Matmul{m.view, y.view(), std::nullopt, false});
        CHECK(y.guards_hold());
        for (std::int64_t t = 0; t < tokens; ++t) {
            for (std::int64_t r = 0; r < shape.rows; ++r) {
                double want = 0, norm = 0;
                for (std::int64_t k = 0; k < shape.cols; ++k) {
                    const double p = x.at(t, k) * w[static_cast<std::size_t>(r * shape.cols + k)];
                    want += p, norm += std::fabs(p);
                }
                const double bound = static_cast<double>(shape.cols) * test::kEpsilon * norm;
                CHECK(std::fabs(y.at(t, r) - want) <= bound);
            }
        }
    }
}

TEST_CASE("planes: names, types and sizes are checked against the matrix") {
    const Shape2 shape{4, 128};
    const PlaneInfo codes = plane("codes", DType::kU8, {4, 64});
    const PlaneInfo scales = plane("scales", DType::kF16, {4, 4});
    CHECK(refusal("affine", shape, {codes, scales}) == Exit::kDone);
    CHECK(refusal("affine", shape, {codes}) == Exit::kBadData);
    CHECK(refusal("affine", shape, {codes, scales, scales}) == Exit::kBadData);
    CHECK(refusal("affine", shape, {codes, scales, plane("other", DType::kU8, {4, 4})}) ==
          Exit::kBadData);
    CHECK(refusal("affine", shape, {codes, scales, plane("zeros", DType::kU8, {4, 2})}) ==
          Exit::kBadData);
    CHECK(refusal("affine", shape, {codes, scales, plane("groups", DType::kI16, {64})}) ==
          Exit::kBadData);
    CHECK(refusal("affine", shape, {codes, plane("scales", DType::kU8, {4, 4})}) == Exit::kBadData);
    CHECK(refusal("affine", shape, {codes, plane("scales", DType::kF16, {4, 3})}) ==
          Exit::kBadData);
    CHECK(refusal("affine", shape, {codes, plane("scales", DType::kF16, {4, 8})}) == Exit::kDone);
    CHECK(refusal("affine", shape,
                  {codes, scales, plane("zeros", DType::kU8, {4, 4}),
                   plane("fine_zeros", DType::kU8, {4, 4})}) == Exit::kBadData);
    CHECK(refusal("affine", shape, {plane("codes", DType::kU8, {4, 16}), scales}) ==
          Exit::kBadData);  // one bit
    CHECK(refusal("affine", {3, 128}, {codes, scales}) == Exit::kBadData);
    CHECK(refusal("affine", shape, {plane("codes", DType::kU8, {256}), scales}) == Exit::kBadData);

    const PlaneInfo peaks = plane("peaks", DType::kF32, {4, 2});
    const PlaneInfo values = plane("values", DType::kF32, {16});
    CHECK(refusal("nf4", shape, {codes, peaks, values}) == Exit::kDone);
    CHECK(refusal("nf4", shape, {codes, peaks}) == Exit::kBadData);
    CHECK(refusal("nf4", shape, {codes, peaks, plane("values", DType::kF32, {17})}) ==
          Exit::kBadData);
    CHECK(refusal("nf4", shape, {codes, plane("peaks", DType::kU8, {4, 2}), values}) ==
          Exit::kBadData);
    CHECK(refusal("q4_0", shape, {codes}) == Exit::kBadData);
}

TEST_CASE("planes: indices outside their tables are found before anything is decoded") {
    Planes affine("affine", {2, 64},
                  {plane("codes", DType::kU8, {2, 32}), plane("scales", DType::kF32, {2, 2}),
                   plane("groups", DType::kI16, {64})});
    const WeightFormat& format = format_of(LayoutId::k_affine);
    CHECK_NOTHROW(format.verify(affine.view, {0, 2}));
    affine.plane_at<std::uint16_t>(3)[63] = 2;
    CHECK_THROWS_AS(format.verify(affine.view, {0, 2}), Error);

    Planes nested("nf4", {2, 64},
                  {plane("codes", DType::kU8, {2, 32}), plane("peaks", DType::kU8, {2, 1}),
                   plane("values", DType::kF32, {272}), plane("origin", DType::kI32, {2, 1}),
                   plane("nested", DType::kF32, {2})});
    const WeightFormat& nf4 = format_of(LayoutId::k_nf4);
    CHECK_NOTHROW(nf4.verify(nested.view, {0, 2}));
    nested.plane_at<std::int32_t>(3)[1] = 255;
    CHECK_NOTHROW(nf4.verify(nested.view, {0, 2}));
    for (const std::int32_t bad : {-1, 256, 1 << 30}) {
        nested.plane_at<std::int32_t>(3)[1] = bad;
        CHECK_THROWS_AS(nf4.verify(nested.view, {0, 2}), Error);
        CHECK_NOTHROW(nf4.verify(nested.view, {0, 1}));
    }
}
