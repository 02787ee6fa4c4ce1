// SPDX-License-Identifier: Apache-2.0
// jlcm and the books that it learns: against enumeration, published distortions and plain integers.
#include "format/books.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "format/weight_format.h"
#include "kernels/layout/half.h"
#include "kernels/layout/jlcm.h"
#include "tests/kernels/harness.h"

using namespace thimble;

namespace {

using L = Layout<LayoutId::k_jlcm>;

struct Planes final : PlaneSink {
    std::array<std::vector<std::byte>, kMaxPlanes> bytes;
    void append(int plane, std::span<const std::byte> more) override {
        auto& to = bytes[static_cast<std::size_t>(plane)];
        to.insert(to.end(), more.begin(), more.end());
    }
    [[nodiscard]] std::vector<std::uint16_t> books_of_rows() const {
        std::vector<std::uint16_t> out(bytes[L::kBook].size() / 2);
        std::memcpy(out.data(), bytes[L::kBook].data(), bytes[L::kBook].size());
        return out;
    }
    [[nodiscard]] PackedView view(const char* spec, Shape2 shape) const {
        const SharedFormat format = make_format(spec, "test");
        const PackedForm form = form_of(*format, shape);
        PackedView view{form.layout, shape, {}, static_cast<int>(form.planes.size()), form.params};
        for (std::size_t p = 0; p < form.planes.size(); ++p)
            view.planes[p] = {bytes[p].data(), form.planes[p].row_bytes, form.planes[p].bytes};
        return view;
    }
};

// The rows seen and encoded `chunk` at a time.
Planes encoded(const char* spec, Shape2 shape, const std::vector<float>& weights,
               std::int64_t chunk = 1 << 20) {
    const auto encoder = make_format(spec, "test")->encoder(shape, {});
    const std::span<const float> all(weights);
    const auto each = [&](auto&& fn) {
        for (std::int64_t r = 0; r < shape.rows; r += chunk) {
            const std::int64_t n = std::min(chunk, shape.rows - r);
            fn(r, all.subspan(static_cast<std::size_t>(r * shape.cols),
                              static_cast<std::size_t>(n * shape.cols)));
        }
    };
    Planes planes;
    each([&](std::int64_t r, std::span<const float> rows) { encoder->scan(r, rows); });
    each([&](std::int64_t r, std::span<const float> rows) { encoder->encode(r, rows, planes); });
    return planes;
}

std::vector<double> decoded(const PackedView& view) {
    std::vector<double> out(static_cast<std::size_t>(view.shape.rows * view.shape.cols));
    format_of(view.layout)
        .decode(view, {0, view.shape.rows},
                {out.data(), DType::kF64, view.shape.rows, view.shape.cols, view.shape.cols});
    return out;
}

// Mean square error of normal weights, by their variance.
double distortion(const char* spec) {
    const Shape2 shape{64, 4096};
    std::vector<float> weights(static_cast<std::size_t>(shape.rows * shape.cols));
    for (std::size_t i = 0; i < weights.size(); ++i) {
        const Philox4 r = philox(21, i);
        const double u = (static_cast<double>(r.v[0]) + 0.5) / 4294967296.0;
        const double v = static_cast<double>(r.v[1]) / 4294967296.0;
        weights[i] =
            static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v));
    }
    const Planes planes = encoded(spec, shape, weights);
    const std::vector<double> back = decoded(planes.view(spec, shape));
    double error = 0, norm = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
        const auto w = static_cast<double>(weights[i]);
        error += (w - back[i]) * (w - back[i]), norm += w * w;
    }
    return error / norm;
}

// Rows of two shapes, `row % 5 < 2` telling them apart: normal, and two values with noise.
float of_two_shapes(test::Random& random, std::size_t row) {
    if (row % 5 < 2) return random.normal();
    return (random.unit() < 0.5f ? -1.0f : 1.0f) + random.normal(0.1f);
}

}  // namespace

TEST_CASE("jlcm: one book of normal weights misses what Lloyd and Max found") {
    // "Quantizing for minimum distortion", Max 1960, table 1.
    CHECK(distortion("jlcm:bits=2,group=0,rows=0") == doctest::Approx(0.1175).epsilon(0.015));
    CHECK(distortion("jlcm:bits=3,group=0,rows=0") == doctest::Approx(0.03454).epsilon(0.015));
    CHECK(distortion("jlcm:bits=4,group=0,rows=0") == doctest::Approx(0.009497).epsilon(0.015));
}

TEST_CASE("jlcm: a book of even steps is plain integers") {
    const Shape2 shape{16, 256};
    test::Random random(31);
    const std::vector<float> weights = random.normals(shape.rows * shape.cols, 0.05f);
    for (const int bits : {2, 3, 4}) {
        CAPTURE(bits);
        const std::string spec = "affine:group=64,symmetric=true,bits=" + std::to_string(bits);
        const SharedFormat affine = make_format(spec, "test");
        Planes whole;
        affine->encoder(shape, {})->encode(0, weights, whole);
        const std::vector<double> want = decoded(whole.view(spec.c_str(), shape));
        Planes planes;
        planes.bytes[L::kCodes] = whole.bytes[0];
        planes.bytes[L::kScales] = whole.bytes[1];
        planes.bytes[L::kBook].resize(32);
        for (int v = 0; v < 1 << bits; ++v)
            planes.bytes[L::kBooks].push_back(static_cast<std::byte>(v - (1 << (bits - 1))));
        const std::string own = "jlcm:group=64,bits=" + std::to_string(bits);
        const PackedView view = planes.view(own.c_str(), shape);
        CHECK_NOTHROW(format_of(LayoutId::k_jlcm).verify(view, {0, 16}));
        const std::vector<double> got = decoded(view);
        for (std::size_t i = 0; i < got.size(); ++i) REQUIRE(128 * got[i] == want[i]);
    }
}

TEST_CASE("jlcm: values of least loss are those that trying all finds") {
    test::Random random(32);
    for (int trial = 0; trial < 20; ++trial) {
        Histogram histogram;
        for (int i = 0; i < 9; ++i) histogram.add(random.normal(), 0.1f + random.unit());
        std::vector<std::pair<double, double>> points;  // mean, mass
        for (std::size_t i = 0; i < Histogram::kBins; ++i) {
            const auto mass = static_cast<double>(histogram.mass[i]);
            if (mass > 0)
                points.emplace_back(static_cast<double>(histogram.moment[i]) / mass, mass);
        }
        // Every way to cut the points into three runs, each of which becomes its mean.
        double least = 1e9;
        const auto run_loss = [&](std::size_t a, std::size_t b) {
            double mass = 0, mean = 0, sum = 0;
            for (std::size_t i = a; i < b; ++i)
                mass += points[i].second, mean += points[i].first * points[i].second;
            mean /= mass;
            for (std::size_t i = a; i < b; ++i)
                sum += points[i].second * (points[i].first - mean) * (points[i].first - mean);
            return sum;
        };
        for (std::size_t a = 1; a + 1 < points.size(); ++a) {
            for (std::size_t b = a + 1; b < points.size(); ++b)
                least =
                    std::min(least, run_loss(0, a) + run_loss(a, b) + run_loss(b, points.size()));
        }
        const std::vector<double> values = best_values(histogram, 3);
        CHECK(std::is_sorted(values.begin(), values.end()));
        CHECK(histogram.loss(values) == doctest::Approx(least).epsilon(1e-9));
    }
    Histogram few;
    few.add(-1, 1), few.add(0.5f, 2);
    CHECK(best_values(few, 4) == std::vector<double>{-1, 0.5, 0.5, 0.5});
    CHECK(best_values(Histogram{}, 2) == std::vector<double>{0, 0});
}

TEST_CASE("jlcm: rows of two distributions are separated, and the loss never rises") {
    test::Random random(33);
    std::vector<Histogram> units(100);
    for (std::size_t u = 0; u < units.size(); ++u) {
        for (int i = 0; i < 400; ++i) units[u].add(of_two_shapes(random, u), 1);
    }
    const Books two = learn_books(units, 2, 4, 8);
    for (std::size_t u = 0; u < units.size(); ++u)
        CHECK(two.book_of_unit[u] == two.book_of_unit[u % 5 < 2 ? 0 : 2]);
    CHECK(two.book_of_unit[0] != two.book_of_unit[2]);
    const Books one = learn_books(units, 1, 4, 8), five = learn_books(units, 5, 4, 8);
    CHECK(two.loss < 0.8 * one.loss);
    for (const Books& books : {one, two, five}) {
        CHECK(books.losses.back() == books.loss);
        for (std::size_t i = 1; i < books.losses.size(); ++i)
            CHECK(books.losses[i] < books.losses[i - 1]);
    }
    CHECK(two.losses.size() > 1);  // 40 of 100 are not a half: some had to move
    CHECK(five.losses.size() > 1);
}

TEST_CASE("jlcm: the format's rows take the book of their distribution") {
    const Shape2 shape{80, 512};
    test::Random random(34);
    std::vector<float> weights;
    for (std::size_t r = 0; r < 80; ++r) {
        const float size = 0.01f + 0.02f * random.unit();
        for (int i = 0; i < 512; ++i) weights.push_back(size * of_two_shapes(random, r));
    }
    const char* spec = "jlcm:bits=2,group=0,rows=40,together=1";
    const std::vector<std::uint16_t> books = encoded(spec, shape, weights).books_of_rows();
    for (std::size_t r = 0; r < 80; ++r) CHECK(books[r] == books[r % 5 < 2 ? 0 : 2]);
    CHECK(books[0] != books[2]);
    const auto together = encoded("jlcm:bits=2,group=0,rows=40", shape, weights).books_of_rows();
    for (std::size_t r = 0; r < 80; ++r) CHECK(together[r] == together[r / 16 * 16]);
}

TEST_CASE("jlcm: books are of the columns that matter") {
    const Shape2 shape{32, 512};
    test::Random random(37);
    std::vector<float> weights, importance(512, 0.0f);
    for (int i = 0; i < 32 * 512; ++i) {
        const float u = random.unit();
        const float four = u < 0.25f ? -1.0f : u < 0.5f ? -0.3f : u < 0.75f ? 0.2f : 0.7f;
        weights.push_back(i % 2 == 0 ? four : random.normal());
    }
    for (std::size_t c = 0; c < 512; c += 2) importance[c] = 2;
    const char* spec = "jlcm:bits=2,group=0,rows=0";
    EncodeOptions options;
    options.column_importance = importance;
    const auto encoder = make_format(spec, "test")->encoder(shape, options);
    encoder->scan(0, weights);
    Planes planes;
    encoder->encode(0, weights, planes);
    const std::vector<double> back = decoded(planes.view(spec, shape));
    for (std::size_t i = 0; i < weights.size(); i += 2)
        REQUIRE(std::fabs(back[i] - static_cast<double>(weights[i])) < 0.01);
}

TEST_CASE("jlcm: bytes do not depend on how many rows are seen at a time") {
    const Shape2 shape{150, 256};
    test::Random random(35);
    const std::vector<float> weights = random.normals(shape.rows * shape.cols, 0.02f);
    for (const char* spec : {"jlcm", "jlcm:bits=3,together=1,rows=20,group=0"}) {
        const Planes whole = encoded(spec, shape, weights);
        for (const std::int64_t chunk : {1, 7, 64})
            CHECK(encoded(spec, shape, weights, chunk).bytes == whole.bytes);
    }
}

TEST_CASE("jlcm: books as bytes are different and ascend, whatever the values") {
    const std::vector<std::vector<double>> all = {{-2, -1, 1, 2},          {0, 0, 0, 0},
                                                  {0.3, 0.3, 0.3, 0.3},    {-0.3, -0.3, -0.3, -0.3},
                                                  {-1e-3, 1e-3, 2e-3, 60}, {-60, -1e-3, 0, 1e-3}};
    for (const std::vector<double>& values : all) {
        std::array<std::int8_t, 4> book{};
        const double unit = round_book(values, book);
        for (std::size_t i = 1; i < 4; ++i) CHECK(book[i] > book[i - 1]);
        double largest = 0;
        for (const double v : values) largest = std::max(largest, std::fabs(v));
        CHECK(unit == doctest::Approx(largest / 127));
        // Values that fall together are pushed apart; the largest is met.
        bool met = false;
        for (std::size_t i = 0; i < 4; ++i) {
            CHECK(std::fabs(unit * book[i] - values[i]) <= 3.5 * unit);
            met = met || std::abs(book[i]) == 127 || largest == 0;
        }
        CHECK(met);
    }
}

TEST_CASE("jlcm: verify finds books outside the table, that differ within 16 rows or descend") {
    const Shape2 shape{40, 64};
    test::Random random(36);
    const std::vector<float> weights = random.normals(shape.rows * shape.cols);
    const char* spec = "jlcm:rows=16,group=64";
    const WeightFormat& format = format_of(LayoutId::k_jlcm);
    Planes planes = encoded(spec, shape, weights);
    CHECK_NOTHROW(format.verify(planes.view(spec, shape), {0, 40}));
    const auto refused = [&](int plane, std::size_t at, int value, RowRange range) {
        Planes bad = planes;
        bad.bytes[static_cast<std::size_t>(plane)][at] = static_cast<std::byte>(value);
        try {
            format.verify(bad.view(spec, shape), range);
        } catch (const Error& e) {
            CHECK(e.exit() == Exit::kBadData);
            return true;
        }
        return false;
    };
    const int other = (planes.books_of_rows()[0] + 1) % 3;
    CHECK(refused(L::kBook, 2 * 5, other, {0, 40}));
    CHECK_FALSE(refused(L::kBook, 2 * 5, other, {0, 5}));
    CHECK(refused(L::kBooks, 17, -128, {0, 40}));
    CHECK_FALSE(refused(L::kBooks, 16, -128, {0, 40}));
    spec = "jlcm:rows=16,group=64,together=1";
    planes = encoded(spec, shape, weights);
    CHECK_NOTHROW(format.verify(planes.view(spec, shape), {0, 40}));
    CHECK(refused(L::kBook, 2 * 32, 3, {0, 40}));  // there are three books
    CHECK(refused(L::kBook, 2 * 32 + 1, 0x80, {0, 40}));
    CHECK_FALSE(refused(L::kBook, 2 * 32, 3, {0, 32}));
    CHECK_THROWS_AS((void)make_format("jlcm:together=8", "test")->planes(shape, {}), Error);
    CHECK_THROWS_AS((void)make_format("jlcm:group=48", "test")->planes({1, 96}, {}), Error);
}
