// SPDX-License-Identifier: Apache-2.0
// What every weight format promises, checked over the registry.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "format/weight_format.h"
#include "kernels/layout/rng.h"

using namespace thimble;

namespace {

struct BytesSink final : PlaneSink {
    std::vector<std::byte> planes[kMaxPlanes];
    void append(int plane, std::span<const std::byte> bytes) override {
        auto& p = planes[plane];
        p.insert(p.end(), bytes.begin(), bytes.end());
    }
};

float normal(std::uint64_t seed, std::uint64_t i) {
    const Philox4 r = philox(seed, i);
    const double u = (static_cast<double>(r.v[0]) + 0.5) / 4294967296.0;
    const double v = (static_cast<double>(r.v[1]) + 0.5) / 4294967296.0;
    return static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v));
}

std::vector<float> normals(std::int64_t n, std::uint64_t seed) {
    std::vector<float> out(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = normal(seed, i);
    return out;
}

struct Packed {
    BytesSink sink;
    std::vector<PlaneInfo> info;
    PackedView view;
};

Packed pack(const WeightFormat& format, Shape2 shape, const std::vector<float>& weights,
            const EncodeOptions& options = {}) {
    Packed p;
    p.info = format.planes(shape, options);
    const auto encoder = format.encoder(shape, options);
    if (format.info().needs_scan) encoder->scan(0, weights);
    encoder->encode(0, weights, p.sink);
    p.view.layout = format.info().layout;
    p.view.shape = shape;
    p.view.n_planes = static_cast<int>(p.info.size());
    if (has_planes(p.view.layout)) p.view.params = format.form(shape, p.info).params;
    for (std::size_t i = 0; i < p.info.size(); ++i)
        p.view.planes[i] = {p.sink.planes[i].data(), p.info[i].row_bytes, p.info[i].bytes};
    return p;
}

std::vector<double> unpack(const WeightFormat& format, const PackedView& view, RowRange range) {
    std::vector<double> out(static_cast<std::size_t>(range.count * view.shape.cols), NAN);
    format.decode(view, range,
                  {out.data(), DType::kF64, range.count, view.shape.cols, view.shape.cols});
    return out;
}

double relative_error(const std::vector<float>& want, const std::vector<double>& got) {
    double error = 0, norm = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
        const double w = static_cast<double>(want[i]);
        error += (got[i] - w) * (got[i] - w);
        norm += w * w;
    }
    return std::sqrt(error / norm);
}

// Of the weights under one scale.
void check_bound(const WeightFormat& format, const PackedView& view,
                 const std::vector<float>& weights, const std::vector<double>& decoded,
                 const std::string& what) {
    const FormatInfo info = format.info();
    const auto block = static_cast<std::size_t>(std::max(info.block_elements, view.params.group));
    for (std::size_t at = 0; at < weights.size(); at += block) {
        double peak = 0, worst = 0;
        for (std::size_t i = at; i < at + block; ++i) {
            peak = std::max(peak, std::fabs(static_cast<double>(weights[i])));
            worst = std::max(worst, std::fabs(decoded[i] - static_cast<double>(weights[i])));
        }
        if (peak < 0x1p-8 || peak > 0x1p8) continue;  // outside the bound's range
        if (worst > info.error_bound * peak)
            FAIL(info.name, " ", what, ": error ", worst, " of peak ", peak, " at ", at);
    }
}

// All that encode (the others hold what came from elsewhere), with their defaults and with others.
const std::vector<SharedFormat>& encoding_formats() {
    static const std::vector<SharedFormat> formats = [] {
        std::vector<SharedFormat> out;
        for (const auto& format : weight_formats().items()) {
            if (format->info().encodes) out.push_back(shared_format_of(format->info().layout));
        }
        for (const FormatAlias& alias : format_aliases())
            out.push_back(make_format(alias.name, "test"));
        for (const char* spec : {"affine:fit=minmax",
                                 "affine:fit=hqq",
                                 "affine:bits=3,group=128,fit=minmax",
                                 "affine:bits=2,fit=hqq",
                                 "affine:bits=4,group=16",
                                 "affine:scale=f32,group=0",
                                 "affine:bits=4,group=128,symmetric=true,fit=minmax",
                                 "affine:scale=bf16",
                                 "affine:bits=8,symmetric=true,fit=minmax",
                                 "bitmod:fit=peak",
                                 "bitmod:only=er",
                                 "bitmod:bits=3,fit=peak,group=64",
                                 "bitmod:only=ea,group=32",
                                 "bfp:fit=peak",
                                 "bfp:bits=2",
                                 "bfp:bits=8,group=16,fit=peak",
                                 "bfp:group=128,fit=peak",
                                 "bipolar:bits=1",
                                 "bipolar:bits=2",
                                 "bipolar:bits=3",
                                 "bipolar:bits=8",
                                 "bipolar:bits=4,fit=peak",
                                 "bipolar:bits=5,group=64",
                                 "nf4:nested=false",
                                 "nf4:group=256",
                                 "fp4:nested=false",
                                 "fp4:group=128,nested=false",
                                 "jlcm:bits=3,group=0,rows=0",
                                 "jlcm:bits=2,together=1,rows=4",
                                 "jlcm:group=32",
                                 "fp8:group=128",
                                 "nvfp4:fit=peak",
                                 "sparse:values=f16",
                                 "sparse8:group=0",
                                 "sparse4:group=32"})
            out.push_back(make_format(spec, "test"));
        return out;
    }();
    return formats;
}

template <class Fn>
Error error_of(Fn&& fn) {
    try {
        fn();
    } catch (const Error& e) {
        return e;
    }
    return Error(Exit::kDone, "nothing", "was thrown");
}

// Every byte of a row set, or the last value of a table.
void check_damaged_planes(const WeightFormat& format, const Packed& p) {
    const std::int64_t rows = p.view.shape.rows;
    for (std::size_t i = 0; i < p.info.size(); ++i) {
        if (p.info[i].row_bytes != 0 || p.info[i].bytes == 0) continue;
        Packed bad = p;
        std::memset(&bad.sink.planes[i].back() - 3, 0xff, 4);
        for (std::size_t k = 0; k < p.info.size(); ++k)
            bad.view.planes[k].data = bad.sink.planes[k].data();
        const Error e = error_of([&] { format.verify(bad.view, {0, rows}); });
        CHECK(e.exit() == Exit::kBadData);
        CHECK(e.where() == "plane '" + p.info[i].name + "'");
    }
    Packed bad = p;
    for (std::size_t k = 0; k < p.info.size(); ++k) {
        const std::size_t bytes = p.info[k].row_bytes;
        if (bytes != 0)
            std::memset(bad.sink.planes[k].data() + bytes * static_cast<std::size_t>(rows - 1),
                        0xff, bytes);
        bad.view.planes[k].data = bad.sink.planes[k].data();
    }
    const Error e = error_of([&] { format.verify(bad.view, {0, rows}); });
    CHECK(e.exit() == Exit::kBadData);
    CHECK(e.where() == "row " + std::to_string(rows - 1) + ", group 0");
    CHECK_NOTHROW(format.verify(bad.view, {0, rows - 1}));
}

}  // namespace

TEST_SUITE("format") {
    TEST_CASE("format contract: planes announce exactly the bytes appended, in any split of rows") {
        for (const SharedFormat& format : encoding_formats()) {
            CAPTURE(spec_of(*format));
            const std::int64_t cols = 3 * 256;
            const Shape2 shape{7, cols};
            const std::vector<float> weights = normals(shape.rows * cols, 1);
            const Packed whole = pack(*format, shape, weights);
            for (std::size_t i = 0; i < whole.info.size(); ++i) {
                CHECK(whole.sink.planes[i].size() == whole.info[i].bytes);
                if (whole.info[i].bytes == 0) continue;  // not there
                std::uint64_t product = size_of(whole.info[i].dtype);
                for (std::uint64_t d : whole.info[i].dims) product *= d;
                CHECK(product == whole.info[i].bytes);
            }
            const auto encoder = format->encoder(shape, {});
            if (format->info().needs_scan) encoder->scan(0, weights);
            BytesSink split;
            const std::span<const float> rows(weights);
            encoder->encode(0, rows.first(static_cast<std::size_t>(2 * cols)), split);
            encoder->encode(2, rows.subspan(static_cast<std::size_t>(2 * cols)), split);
            for (std::size_t i = 0; i < whole.info.size(); ++i)
                CHECK(split.planes[i] == whole.sink.planes[i]);
            BytesSink tables;
            encoder->encode(0, {}, tables);
            for (std::size_t i = 0; i < whole.info.size(); ++i)
                CHECK(tables.planes[i].size() ==
                      (whole.info[i].row_bytes == 0 ? whole.info[i].bytes : 0));
        }
    }

    TEST_CASE("format contract: a row range equals the slice of the full decode, F32 near F64") {
        for (const SharedFormat& format : encoding_formats()) {
            CAPTURE(spec_of(*format));
            const std::int64_t cols = 512;
            const Shape2 shape{6, cols};
            const Packed p = pack(*format, shape, normals(shape.rows * cols, 2));
            const std::vector<double> full = unpack(*format, p.view, {0, 6});
            const std::vector<double> part = unpack(*format, p.view, {2, 3});
            const std::vector<double> sliced = unpack(*format, p.view.slice_rows({2, 3}), {0, 3});
            for (std::size_t i = 0; i < part.size(); ++i) {
                CHECK(part[i] == full[i + static_cast<std::size_t>(2 * cols)]);
                CHECK(part[i] == sliced[i]);
            }
            std::size_t tables = 0;
            for (const PlaneInfo& plane : p.info) tables += plane.row_bytes == 0 ? plane.bytes : 0;
            const std::size_t half = p.view.slice_rows({2, 3}).bytes();
            CHECK((half - tables) * 2 == p.view.bytes() - tables);
            std::vector<float> single(static_cast<std::size_t>(cols));
            format->decode(p.view, {4, 1}, {single.data(), DType::kF32, 1, cols, cols});
            for (std::size_t i = 0; i < single.size(); ++i) {
                const double want = full[i + static_cast<std::size_t>(4 * cols)];
                CHECK(std::fabs(static_cast<double>(single[i]) - want) <= 0x1p-21 * 8);
            }
        }
    }

    TEST_CASE(
        "format contract: error bound on normal, constant, zero, outlier and scaled weights") {
        for (const SharedFormat& format : encoding_formats()) {
            CAPTURE(spec_of(*format));
            const FormatInfo info = format->info();
            const std::int64_t cols = 1024;
            for (int kind = 0; kind < 8; ++kind) {
                const Shape2 shape{kind == 5 ? 1 : 8, cols};
                std::vector<float> w = normals(shape.rows * cols, 3 + static_cast<unsigned>(kind));
                for (std::size_t i = 0; i < w.size(); ++i) {
                    if (kind == 1) w[i] = 0;
                    if (kind == 2) w[i] = 0.37f;
                    if (kind == 3) w[i] = -0.37f;
                    if (kind == 4) w[i] *= i % 700 == 13 ? 60.0f : 0.01f;
                    if (kind == 6) w[i] = std::fabs(w[i]) + 1;
                    if (kind == 7) w[i] = i % 2 ? 1.0f : -1.0f;
                }
                const Packed p = pack(*format, shape, w);
                const std::vector<double> back = unpack(*format, p.view, {0, shape.rows});
                if (kind == 1) {
                    for (double v : back) REQUIRE(v == 0);
                }
                check_bound(*format, p.view, w, back, "kind " + std::to_string(kind));
                CHECK_NOTHROW(format->verify(p.view, {0, shape.rows}));
                for (std::size_t k = 0; info.lossless && k < w.size(); ++k)
                    REQUIRE(back[k] == static_cast<double>(w[k]));
            }
        }
    }

    TEST_CASE("format contract: relative error on standard normal weights is the known one") {
        // Percent. Two-sided where the encoder is fixed bit for bit, else an upper limit.
        struct Known {
            double percent;
            bool exact;
        };
        const std::map<std::string, Known> known{
            {"f64", {0, true}},
            {"f32", {0, true}},
            {"f16", {0.0208, true}},
            {"bf16", {0.166, true}},
            {"q8_0", {0.533, true}},
            {"q4_0", {8.57, true}},
            {"q4_1", {7.78, true}},
            {"q5_0", {3.99, false}},
            {"q5_1", {3.33, false}},
            {"q4_k", {6.97, false}},
            {"q5_k", {3.44, false}},
            {"q6_k", {1.66, false}},
            {"q2_k", {26.0, false}},
            {"q3_k", {14.4, false}},
            {"iq4_nl", {7.35, false}},
            {"iq4_xs", {7.40, false}},
            {"mxfp4", {11.15, false}},
            {"tq1_0", {43.6, true}},
            {"tq2_0", {43.6, true}},
            {"iq2_xxs", {34.7, false}},
            {"iq2_xs", {29.86, false}},
            {"iq2_s", {24.7, false}},
            {"iq3_xxs", {18.0, false}},
            {"iq3_s", {13.06, false}},
            {"iq1_s", {49.7, false}},
            {"iq1_m", {45.3, false}},
            {"nf4", {9.15, true}},
            {"nf4:nested=false", {9.13, true}},
            {"nf4:values=fp4", {12.25, true}},
            {"nf4:values=fp4,nested=false", {12.25, true}},
            {"affine", {8.60, false}},
            {"affine:bits=8,symmetric=true,fit=minmax", {0.593, true}},
            {"affine:group=128,symmetric=true,fit=minmax", {11.68, true}},
            {"affine:fit=minmax", {9.10, true}},
            {"affine:fit=hqq", {9.10, false}},
            {"affine:bits=3,group=128,fit=minmax", {21.47, true}},
            {"bitmod", {9.3, false}},
            {"bitmod:fit=peak", {9.79, true}},
            {"bitmod:bits=3", {18.5, false}},
            {"bfp", {12.9, false}},
            {"bfp:bits=8,group=16,fit=peak", {0.724, true}},
            {"bfp:fit=peak", {13.22, true}},
            {"bfp:group=128,fit=peak", {14.60, true}},
            {"bipolar", {10.6, false}},
            {"bipolar:bits=1", {60.3, true}},
            {"bipolar:bits=2", {34.5, false}},
            {"bipolar:bits=3", {19.4, false}},
            {"bipolar:bits=4,fit=peak", {10.85, true}},
            {"fp8", {2.655, true}},
            {"fp8:scale=e8m0", {2.7, false}},
            {"jlcm", {8.9, false}},
            {"jlcm:bits=3", {17.9, false}},
            {"jlcm:bits=2", {34.0, false}},
            {"jlcm:bits=3,group=0,rows=0", {18.58, true}},
            {"sparse", {0.166, true}},
            {"sparse:values=f16", {0.0208, true}},
            {"sparse:values=i8", {0.593, true}},
            {"sparse:values=i4", {10.0, false}},
            {"nvfp4", {8.9, false}},
            {"nvfp4:fit=peak", {9.50, true}}};
        const Shape2 shape{64, 2048};
        const std::vector<float> w = normals(shape.rows * shape.cols, 11);
        std::size_t met = 0;
        for (const SharedFormat& format : encoding_formats()) {
            const std::string name = spec_of(*format);
            CAPTURE(name);
            if (known.count(name) == 0) continue;
            ++met;
            const Known want = known.at(name);
            const Packed p = pack(*format, shape, w);
            const double percent = 100 * relative_error(w, unpack(*format, p.view, {0, 64}));
            CAPTURE(percent);
            CHECK(percent <= want.percent * 1.015);
            if (want.exact) CHECK(percent >= want.percent * 0.985);
        }
        CHECK(met >= known.size());  // aliases may meet one again
        for (const auto& format : weight_formats().items())
            CHECK((known.count(spec_of(*format)) == 1 || !format->info().encodes));
    }

    TEST_CASE("format contract: importance lowers the weighted error") {
        const Shape2 shape{16, 1024};
        const std::vector<float> w = normals(shape.rows * shape.cols, 12);
        std::vector<float> importance(1024);
        for (std::size_t c = 0; c < importance.size(); ++c) {
            const float v = normal(13, c);
            importance[c] = v * v * v * v;
        }
        const auto weighted = [&](const std::vector<double>& back) {
            double sum = 0;
            for (std::size_t i = 0; i < w.size(); ++i) {
                const double d = back[i] - static_cast<double>(w[i]);
                sum += d * d * static_cast<double>(importance[i % 1024]);
            }
            return sum;
        };
        for (const SharedFormat& format : encoding_formats()) {
            CAPTURE(spec_of(*format));
            const FormatInfo info = format->info();
            EncodeOptions options;
            options.column_importance = importance;
            const Packed with = pack(*format, shape, w, options), without = pack(*format, shape, w);
            const double a = weighted(unpack(*format, with.view, {0, 16}));
            const double b = weighted(unpack(*format, without.view, {0, 16}));
            if (with.sink.planes[0] == without.sink.planes[0]) continue;  // does not use it
            // Scales that are powers of two and weights of three values have little to choose from.
            // So have 8 bits and wide groups.
            const bool coarse = info.name == "mxfp4" || info.name == "bfp" || info.name == "fp8" ||
                                info.nominal_bits_per_weight < 2.5 ||
                                info.nominal_bits_per_weight >= 7 || with.view.params.group >= 128;
            CHECK(a < (coarse ? 0.985 : 0.9) * b);
            // Columns that do not matter at all: no error thrown, bound by the plain search.
            const std::vector<float> zeros(1024, 0.0f);
            options.column_importance = zeros;
            CHECK_NOTHROW(pack(*format, shape, w, options));
            options.column_importance = std::span(zeros).first(100);
            CHECK(error_of([&] { (void)format->encoder(shape, options); }).exit() ==
                  Exit::kBadData);
        }
    }

    TEST_CASE("format contract: ragged columns, NaN, infinity and overflow are refused by place") {
        for (const SharedFormat& format : encoding_formats()) {
            CAPTURE(spec_of(*format));
            const FormatInfo info = format->info();
            if (info.block_elements > 1) {
                const Shape2 ragged{2, info.block_elements + info.block_elements / 2};
                CHECK(error_of([&] { (void)format->planes(ragged, {}); }).exit() == Exit::kUsage);
                CHECK(error_of([&] { (void)format->encoder(ragged, {}); }).exit() == Exit::kUsage);
            }
            const Shape2 shape{4, 512};
            for (const float bad : {NAN, INFINITY, -INFINITY}) {
                std::vector<float> w = normals(shape.rows * shape.cols, 14);
                w[2 * 512 + 301] = bad;
                const Error e = error_of([&] { (void)pack(*format, shape, w); });
                CHECK(e.exit() == Exit::kBadData);
                CHECK(e.where() == "row 2, column 301");
            }
            std::vector<float> huge = normals(shape.rows * shape.cols, 15);
            huge[512 + 40] = 3e38f;
            const std::string spec = spec_of(*format);
            const bool wide_scales = spec.find("scale=f32") != std::string::npos ||
                                     spec.find("scale=bf16") != std::string::npos;
            if (info.name == "f32" || info.name == "f64" || info.name == "bf16" ||
                info.name == "mxfp4" || info.name == "nf4" || info.name == "bfp" ||
                info.name == "fp8" || info.name == "nvfp4" || spec == "sparse" || wide_scales) {
                CHECK_NOTHROW(pack(*format, shape, huge));
            } else {
                const Error e = error_of([&] { (void)pack(*format, shape, huge); });
                CHECK(e.exit() == Exit::kBadData);
                CHECK(e.where().substr(0, 5) == "row 1");
            }
        }
    }

    TEST_CASE("format contract: doubles are kept by the formats that say so, others take none") {
        for (const SharedFormat& format : encoding_formats()) {
            CAPTURE(std::string(format->name()));
            const FormatInfo info = format->info();
            const Shape2 shape{3, 256};
            std::vector<double> w(768);
            for (std::size_t i = 0; i < w.size(); ++i)
                w[i] = static_cast<double>(normal(19, i)) * (1 + 0x1p-40 * static_cast<double>(i));
            const auto encoder = format->encoder(shape, {});
            BytesSink sink;
            if (!info.doubles) {
                const Error e = error_of([&] { encoder->encode_doubles(0, w, sink); });
                CHECK(e.exit() == Exit::kFailure);
                continue;
            }
            encoder->encode_doubles(0, w, sink);
            PackedView view = block_form(info.layout, shape).view(shape, sink.planes[0].data());
            CHECK(sink.planes[0].size() == view.planes[0].bytes);
            CHECK(unpack(*format, view, {0, 3}) == w);
            for (const double bad : {double{NAN}, double{INFINITY}, -1e300}) {
                w[256 + 17] = bad;
                BytesSink refused;
                const Error e = error_of([&] { encoder->encode_doubles(0, w, refused); });
                CHECK(e.exit() == Exit::kBadData);
                CHECK(e.where() == "row 1, column 17");
                std::memcpy(sink.planes[0].data() + (256 + 17) * sizeof bad, &bad, sizeof bad);
                CHECK(error_of([&] { format->verify(view, {0, 3}); }).exit() == Exit::kBadData);
            }
        }
    }

    TEST_CASE("format contract: tiny and subnormal weights encode to finite values") {
        for (const SharedFormat& format : encoding_formats()) {
            CAPTURE(spec_of(*format));
            for (const float scale : {1e-6f, 1e-20f, 1e-30f, 1e-38f, 1e-42f}) {
                const Shape2 shape{2, 512};
                std::vector<float> w = normals(shape.rows * shape.cols, 16);
                for (float& v : w) v *= scale;
                const Packed p = pack(*format, shape, w);
                CHECK_NOTHROW(format->verify(p.view, {0, 2}));
                for (double v : unpack(*format, p.view, {0, 2}))
                    REQUIRE(std::fabs(v) <= 100 * static_cast<double>(scale) + 1e-6);
            }
        }
    }

    TEST_CASE("format contract: verify names row and block of a damaged scale") {
        for (const SharedFormat& format : encoding_formats()) {
            CAPTURE(spec_of(*format));
            const Shape2 shape{3, 512};
            Packed p = pack(*format, shape, normals(shape.rows * shape.cols, 17));
            const LayoutInfo& layout = layout_info(format->info().layout);
            if (has_planes(format->info().layout)) {
                check_damaged_planes(*format, p);
                continue;
            }
            // Every byte of one block set: all its half fields and values become NaN.
            const std::size_t at = p.info[0].row_bytes + layout.block_bytes;
            std::memset(p.sink.planes[0].data() + at, 0xff, layout.block_bytes);
            const Error e = error_of([&] { format->verify(p.view, {0, 3}); });
            CHECK(e.exit() == Exit::kBadData);
            CHECK(e.where() == "row 1, block 1");
            CHECK_NOTHROW(format->verify(p.view, {2, 1}));
        }
    }

    TEST_CASE("format contract: encoding what was decoded gives the same weights") {
        for (const SharedFormat& format : encoding_formats()) {
            CAPTURE(spec_of(*format));
            const Shape2 shape{4, 1024};
            const Packed p = pack(*format, shape, normals(shape.rows * shape.cols, 18));
            std::vector<float> once(static_cast<std::size_t>(shape.rows * shape.cols));
            format->decode(p.view, {0, 4}, {once.data(), DType::kF32, 4, 1024, 1024});
            const Packed again = pack(*format, shape, once);
            const double error = relative_error(once, unpack(*format, again.view, {0, 4}));
            // What the whole matrix decides changes a little, too.
            const bool loose = format->info().block_elements == 256 || format->name() == "nvfp4" ||
                               format->name() == "jlcm";
            CHECK(error <= (loose ? 0.03 : 0.005));
        }
    }

    TEST_CASE("format registry: names, layouts and stored types agree") {
        for (const auto& format : weight_formats().items()) {
            const FormatInfo info = format->info();
            CHECK(std::string(info.name) == layout_info(info.layout).name);
            CHECK(&format_of(info.layout) == format.get());
            CHECK(info.block_elements == layout_info(info.layout).block_elements);
            const auto type = tensor_type_of(info.layout);
            CHECK(type.has_value() != has_planes(info.layout));
            if (!type) continue;
            CHECK(layout_of(*type) == info.layout);
        }
        CHECK_FALSE(layout_of(TensorType::kI64));
        CHECK(error_of([] { (void)weight_formats().get("q4_m", "--format"); }).exit() ==
              Exit::kUsage);
    }
}
