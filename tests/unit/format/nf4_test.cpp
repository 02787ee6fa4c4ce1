// SPDX-License-Identifier: Apache-2.0
// The encoder of nf4: against every level, against bounds, and against bitsandbytes' bytes
// (scripts/make_golden_nf4.py).
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "format/weight_format.h"
#include "kernels/layout/half.h"
#include "kernels/layout/nf4.h"
#include "tests/kernels/harness.h"

using namespace thimble;

namespace {

using L = Layout<LayoutId::k_nf4>;

struct Planes final : PlaneSink {
    std::array<std::vector<std::byte>, kMaxPlanes> bytes;
    void append(int plane, std::span<const std::byte> more) override {
        auto& to = bytes[static_cast<std::size_t>(plane)];
        to.insert(to.end(), more.begin(), more.end());
    }
    template <class T>
    [[nodiscard]] std::vector<T> as(int plane) const {
        const auto& from = bytes[static_cast<std::size_t>(plane)];
        std::vector<T> out(from.size() / sizeof(T));
        std::memcpy(out.data(), from.data(), from.size());
        return out;
    }
    // Of weight i of the matrix.
    [[nodiscard]] int code(std::size_t i) const {
        const auto both = std::to_integer<int>(bytes[L::kCodes][i / 2]);
        return i % 2 == 0 ? both >> 4 : both & 15;
    }
    // As it is decoded.
    [[nodiscard]] double peak(std::size_t n) const {
        PackedRow row{};
        for (int p = 0; p < L::kPlanes; ++p)
            row.planes[p] = bytes[static_cast<std::size_t>(p)].data();
        row.params.scale = ScaleType::kNested;
        return static_cast<double>(L::peak_at(row, static_cast<std::int64_t>(n)));
    }
};

const WeightFormat& nf4() { return format_of(LayoutId::k_nf4); }

Planes encoded(Shape2 shape, const std::vector<float>& weights, const char* spec = "nf4") {
    const SharedFormat format = make_format(spec, "test");
    const auto encoder = format->encoder(shape, {});
    if (format->info().needs_scan) encoder->scan(0, weights);
    Planes planes;
    encoder->encode(0, weights, planes);
    return planes;
}

std::vector<float> peaks_of(const std::vector<float>& weights, std::size_t group) {
    std::vector<float> peaks(weights.size() / group);
    for (std::size_t i = 0; i < weights.size(); ++i)
        peaks[i / group] = std::max(peaks[i / group], std::fabs(weights[i]));
    return peaks;
}

// Inverse of the normal distribution's function, by halving.
double normal_quantile(double p) {
    double low = -10, high = 10;
    for (int i = 0; i < 200; ++i) {
        const double middle = (low + high) / 2;
        (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
    }
    return (low + high) / 2;
}

}  // namespace

TEST_CASE("nf4: the levels are quantiles of the normal distribution") {
    const std::vector<float> values =
        encoded({1, 64}, std::vector<float>(64, 1.0f)).as<float>(L::kValues);
    REQUIRE(values.size() == 16 + 256);
    const double last = 0.9677083, whole = normal_quantile(last);
    for (int i = 0; i < 8; ++i) {
        const double above = normal_quantile(0.5 + (last - 0.5) * (i + 1) / 8) / whole;
        CHECK(values[static_cast<std::size_t>(8 + i)] == doctest::Approx(above).epsilon(1e-6));
        if (i == 7) break;
        const double below = -normal_quantile(0.5 + (last - 0.5) * (7 - i) / 7) / whole;
        CHECK(values[static_cast<std::size_t>(i)] == doctest::Approx(below).epsilon(1e-6));
    }
    CHECK(values[7] == 0);
}

// Each weight's code is that of the nearest value.
static void check_nearest(const char* spec) {
    CAPTURE(spec);
    std::vector<float> x;
    const std::vector<float> values =
        encoded({1, 64}, std::vector<float>(64, 1.0f), spec).as<float>(L::kValues);
    std::vector<float> levels(values.begin(), values.begin() + 16);
    std::sort(levels.begin(), levels.end());
    for (std::uint32_t upper = 0; upper < 0x10000; ++upper) {
        const float value = bits_to_float(upper << 16);
        if (std::fabs(value) <= 1) x.push_back(value);
    }
    for (std::size_t i = 0; i < 15; ++i) {
        float near = static_cast<float>(
            (static_cast<double>(levels[i]) + static_cast<double>(levels[i + 1])) / 2);
        for (int k = 0; k < 4; ++k) near = std::nextafter(near, -2.0f);
        for (int k = 0; k < 9; ++k, near = std::nextafter(near, 2.0f)) x.push_back(near);
    }
    while (x.size() % 63 != 0) x.push_back(0);
    std::vector<float> weights;
    for (std::size_t i = 0; i < x.size(); ++i) {
        if (i % 63 == 0) weights.push_back(i % 2 == 0 ? 1.0f : -1.0f);
        weights.push_back(x[i]);
    }
    const Planes planes =
        encoded({static_cast<std::int64_t>(weights.size() / 64), 64}, weights, spec);
    const bool fp4 = std::string(spec) == "fp4";
    for (std::size_t i = 0; i < weights.size(); ++i) {
        const auto miss = [&](float value) {
            return std::fabs(static_cast<long double>(value) -
                             static_cast<long double>(weights[i]));
        };
        // Of two, the lower one; of magnitudes the smaller.
        const auto before = [&](float a, float b) {
            return fp4 ? std::fabs(a) < std::fabs(b) : a < b;
        };
        float want = levels[0];
        for (const float level : levels) {
            if (miss(level) < miss(want) || (miss(level) == miss(want) && before(level, want)))
                want = level;
        }
        const float got = values[static_cast<std::size_t>(planes.code(i))];
        if (got != want) FAIL(weights[i], " became ", got, ", not ", want);
        if (fp4 && (planes.code(i) >> 3 & 1) != (weights[i] < 0)) FAIL("sign of ", weights[i]);
    }
}

TEST_CASE("nf4 and fp4: weights of 16 bits, and those around each middle, get the nearest level") {
    check_nearest("nf4");
    check_nearest("fp4");
}

TEST_CASE("nf4: normal weights have the nearest nested code, of peaks less their mean") {
    const Shape2 shape{40, 640};        // 400 groups, which cross the scales' borders within a row
    constexpr std::size_t kZeros = 17;  // a group that has no say
    test::Random random(3);
    std::vector<float> weights = random.normals(shape.rows * shape.cols, 0.02f);
    std::fill_n(weights.begin() + 64 * kZeros, 64, 0.0f);
    const Planes planes = encoded(shape, weights);
    const auto codes = planes.as<std::uint8_t>(L::kPeaks);
    const auto values = planes.as<float>(L::kValues), nested = planes.as<float>(L::kNested);
    const auto origin = planes.as<std::int32_t>(L::kOrigin);
    const std::vector<float> peaks = peaks_of(weights, 64);
    REQUIRE(nested.size() == 1 + 2);
    double mean = 0;
    for (const float peak : peaks)
        mean += static_cast<double>(peak) / static_cast<double>(peaks.size() - 1);
    CHECK(nested[0] == doctest::Approx(mean).epsilon(1e-6));
    for (std::size_t r = 0; r < 40; ++r) CHECK(origin[r] == static_cast<std::int32_t>(10 * r));
    for (std::size_t n = 0; n < peaks.size(); ++n) {
        if (n == kZeros) continue;
        const double scale = static_cast<double>(nested[1 + n / 256]);
        const double x = (static_cast<double>(peaks[n]) - static_cast<double>(nested[0])) / scale;
        REQUIRE(std::fabs(x) <= 1.0001);
        const auto miss = [&](std::size_t c) {
            return std::fabs(static_cast<double>(values[16 + c]) - x);
        };
        std::size_t best = 0;
        for (std::size_t c = 1; c < 256; ++c) best = miss(c) < miss(best) ? c : best;
        CHECK(miss(codes[n]) <= miss(best) + 1e-6);
        // The widest step is a 64th of 0.9.
        CHECK(std::fabs(planes.peak(n) - static_cast<double>(peaks[n])) <=
              (0.9 / 128 + 1e-6) * scale);
    }
}

TEST_CASE("nf4: no peak is missed by more than an eighth, whatever stands beside it") {
    test::Random random(4);
    for (const float outlier : {0.0f, 3.0f, 30.0f, 3e3f, 2e4f}) {
        for (const float least : {1.0f, 0.05f, 1e-3f}) {
            std::vector<float> weights = random.normals(24 * 1024, 1.0f);
            for (std::size_t i = 0; i < weights.size(); ++i) {
                if (i / 64 % 5 == 1) weights[i] *= least;
                if (i / 64 % 7 == 2) weights[i] = 0;
            }
            if (outlier > 0) weights[777] = -outlier;
            const Planes planes = encoded({24, 1024}, weights);
            const std::vector<float> peaks = peaks_of(weights, 64);
            for (std::size_t n = 0; n < peaks.size(); ++n) {
                const auto peak = static_cast<double>(peaks[n]);
                if (peak > 0 && std::fabs(planes.peak(n) - peak) > 0.125 * peak)
                    FAIL("outlier ", outlier, " least ", least, ": ", peak, " -> ", planes.peak(n));
                if (peak == 0) CHECK(planes.code(64 * n + 5) == 7);
            }
        }
    }
}

TEST_CASE("nf4: a row that is no multiple of 64 has groups of 32") {
    const Shape2 shape{3, 96};
    test::Random random(5);
    const std::vector<float> weights = random.normals(shape.rows * shape.cols, 0.02f);
    const Planes planes = encoded(shape, weights);
    const std::vector<float> peaks = peaks_of(weights, 32);
    REQUIRE(planes.bytes[L::kPeaks].size() == peaks.size());
    for (std::size_t n = 0; n < peaks.size(); ++n)
        CHECK(planes.peak(n) == doctest::Approx(static_cast<double>(peaks[n])).epsilon(0.01));
    const PackedForm form = block_form(LayoutId::k_nf4, shape);
    CHECK(form.params.group == 32);
    CHECK(form.params.scale == ScaleType::kNested);
}

TEST_CASE("nf4: peaks that are not nested are the groups' own, whatever their width") {
    const Shape2 shape{5, 8192 + 64};
    test::Random random(6);
    const std::vector<float> weights = random.normals(shape.rows * shape.cols, 0.02f);
    const std::pair<const char*, std::size_t> widths[] = {{"nf4:nested=false,group=32", 32},
                                                          {"fp4:nested=false,group=4096", 64},
                                                          {"nf4:nested=false", 64}};
    for (const auto& width : widths) {
        CAPTURE(width.first);
        const Planes planes = encoded(shape, weights, width.first);
        CHECK(planes.as<float>(L::kPeaks) == peaks_of(weights, width.second));
        CHECK(planes.bytes[L::kOrigin].empty());
        CHECK(planes.bytes[L::kNested].empty());
    }
    const Planes wide =
        encoded({5, 8192}, std::vector<float>(5 * 8192, -2.0f), "fp4:nested=false,group=4096");
    CHECK(wide.as<float>(L::kPeaks) == std::vector<float>(10, 2.0f));
    CHECK(std::all_of(wide.bytes[L::kCodes].begin(), wide.bytes[L::kCodes].end(),
                      [](std::byte b) { return b == std::byte{0xbb}; }));
}

TEST_CASE("nf4: a group that is no power of two, or too wide, is refused") {
    for (const char* spec : {"nf4:group=96", "nf4:group=16", "fp4:group=8192", "nf4:values=nf5"}) {
        CAPTURE(spec);
        CHECK_THROWS_AS((void)make_format(spec, "test")->planes({1, 96}, {}), Error);
    }
    CHECK_NOTHROW((void)make_format("nf4:group=4096", "test")->planes({1, 96}, {}));
}

TEST_CASE("nf4: wide rows take 4.127 bits a weight, and 4 bytes a row") {
    const PackedForm form = block_form(LayoutId::k_nf4, {4096, 4096});
    std::size_t bytes = 0;
    for (const PlaneInfo& plane : form.planes) bytes += plane.bytes;
    const double weights = 4096.0 * 4096.0;
    const double rest = 4 * 4096.0 + 4 * (16 + 256 + 1);  // origins; levels, map and mean
    CHECK((static_cast<double>(bytes) - rest) * 8 / weights ==
          nf4().info().nominal_bits_per_weight);
    CHECK(nf4().info().nominal_bits_per_weight == doctest::Approx(4.127).epsilon(1e-4));
}

// What scripts/make_golden_nf4.py stored.
struct Golden {
    explicit Golden(const char* name)
        : file(ModelFile::open(std::string(THIMBLE_TESTS_DIR "/golden/format/") + name)) {
        const TensorEntry& input = file->get("input");
        shape = {static_cast<std::int64_t>(input.dims[0]),
                 static_cast<std::int64_t>(input.dims[1])};
        for (const std::uint16_t half : as<std::uint16_t>("input"))
            weights.push_back(bf16_to_f32(half));
    }
    template <class T>
    [[nodiscard]] std::vector<T> as(const char* name) const {
        const TensorEntry& entry = file->get(name);
        std::vector<T> out(entry.bytes / sizeof(T));
        file->read(entry, 0, std::as_writable_bytes(std::span(out)));
        return out;
    }
    std::unique_ptr<ModelFile> file;
    Shape2 shape;
    std::vector<float> weights;
};

TEST_CASE("nf4: codes, nested codes and tables are bitsandbytes'") {
    const Golden golden("nf4.gguf");
    const Planes planes = encoded(golden.shape, golden.weights);
    CHECK(planes.bytes[L::kCodes] == golden.as<std::byte>("codes"));
    CHECK(planes.bytes[L::kPeaks] == golden.as<std::byte>("peaks"));
    const std::vector<float> values = planes.as<float>(L::kValues),
                             nested = planes.as<float>(L::kNested);
    const auto maps = golden.as<float>("values"), scales = golden.as<float>("nested");
    REQUIRE(maps.size() == values.size());
    REQUIRE(scales.size() == nested.size());
    CHECK(std::equal(maps.begin(), maps.begin() + 16, values.begin()));
    for (std::size_t i = 16; i < values.size(); ++i)  // theirs are of steps rounded to float
        CHECK(std::fabs(values[i] - maps[i]) <= 0x1p-23f * std::fabs(maps[i]) + 1e-12f);
    for (std::size_t i = 0; i < nested.size(); ++i)  // their mean is summed in float
        CHECK(std::fabs(nested[i] - scales[i]) <= 1e-6f * scales[i]);
}

TEST_CASE("fp4: codes, peaks and values are bitsandbytes'") {
    const Golden golden("fp4.gguf");
    const Planes planes = encoded(golden.shape, golden.weights, "fp4:nested=false,group=128");
    const auto codes = golden.as<std::uint8_t>("codes");
    const auto values = planes.as<float>(L::kValues), peaks = planes.as<float>(L::kPeaks);
    REQUIRE(codes.size() == planes.bytes[L::kCodes].size());
    std::size_t differ = 0;
    for (std::size_t i = 0; i < golden.weights.size(); ++i) {
        const int want = i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15, got = planes.code(i);
        if (got == want) continue;
        // On the CPU theirs takes the lower value of two, and any sign of zero.
        const double x =
            static_cast<double>(golden.weights[i]) / static_cast<double>(peaks[i / 128]);
        const auto value = [&](int code) {
            return static_cast<double>(values[static_cast<std::size_t>(code)]);
        };
        const bool tie = std::fabs(value(got) + value(want) - 2 * x) < 1e-6;
        if (!tie && value(got) != value(want)) FAIL("weight ", i, ": code ", got, ", not ", want);
        differ += value(got) != value(want) ? 1 : 0;
    }
    CHECK(differ < 20);
    CHECK(planes.as<float>(L::kPeaks) == golden.as<float>("peaks"));
    CHECK(planes.as<float>(L::kValues) == golden.as<float>("values"));
}
