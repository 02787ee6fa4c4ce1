// SPDX-License-Identifier: Apache-2.0
// Encoders and decoders at every instruction-set level against the format's own, byte for byte.
#include <doctest/doctest.h>

#include "harness.h"
#include "ops/encode.h"

using namespace thimble;
using namespace thimble::test;

namespace {

struct BytesSink final : PlaneSink {
    std::vector<std::byte> bytes;
    void append(int, std::span<const std::byte> more) override {
        bytes.insert(bytes.end(), more.begin(), more.end());
    }
};

constexpr Shape2 kShape{12, 768};

// Rows that take the encoders' side paths: ties, zeros of both signs, equal weights, one sign only,
// an outlier, tiny and large magnitudes.
std::vector<float> awkward_rows() {
    Random random(7);
    std::vector<float> w = random.normals(kShape.rows * kShape.cols, 0.02f);
    for (std::int64_t c = 0; c < kShape.cols; ++c) {
        const auto at = [&](std::int64_t row) -> float& {
            return w[static_cast<std::size_t>(row * kShape.cols + c)];
        };
        at(3) = static_cast<float>(c % 32) / 4 - 3.875f;
        at(4) = c % 2 == 0 ? 0.0f : -0.0f;
        at(5) = 0.37f;
        at(6) = std::fabs(at(6)) + 0.5f;
        at(7) = c % 2 == 0 ? 0.75f : -0.75f;
        if (c % 100 == 13) at(8) *= 60;
        at(9) *= 1e-6f;
        at(10) *= 1e-30f;
        at(11) *= 1e5f;
    }
    return w;
}

std::vector<std::byte> encoded(const Encoder& encoder, const std::vector<float>& weights) {
    BytesSink sink;
    encoder.encode(0, weights, sink);
    return sink.bytes;
}

}  // namespace

TEST_SUITE("encode") {
    TEST_CASE("encode: every level gives the format's own bytes, with and without importance") {
        const std::vector<float> weights = awkward_rows();
        Random random(8);
        std::vector<float> importance = random.normals(kShape.cols);
        for (float& v : importance) v = v * v * v * v;
        for (std::size_t c = 320; c < 352; ++c) importance[c] = 0;  // a whole block
        std::vector<SharedFormat> formats;
        for (const auto& format : weight_formats().items()) {
            if (format->info().encodes && !format->info().needs_scan)
                formats.push_back(shared_format_of(format->info().layout));
        }
        for (const char* spec :
             {"affine:symmetric=true", "affine:bits=2", "affine:bits=8,group=128", "bitmod:bits=3",
              "bitmod:only=ea", "bipolar:bits=2"})
            formats.push_back(make_format(spec, "test"));
        for (const SharedFormat& format : formats) {
            CAPTURE(spec_of(*format));
            for (const bool weighted : {false, true}) {
                EncodeOptions options;
                if (weighted) options.column_importance = importance;
                const auto want = encoded(*format->encoder(kShape, options), weights);
                for (const Isa isa : levels()) {
                    CAPTURE(static_cast<int>(isa));
                    CHECK(encoded(*ops::encoder(isa, *format, kShape, options), weights) == want);
                }
            }
        }
    }

    TEST_CASE("encode: every level decodes rows to the format's own floats") {
        const std::vector<float> weights = awkward_rows();
        for (const auto& format : weight_formats().items()) {
            CAPTURE(std::string(format->name()));
            // Layouts of several planes have one decoder.
            if (has_planes(format->info().layout)) continue;
            const auto bytes = encoded(*format->encoder(kShape, {}), weights);
            PackedView packed;
            packed.layout = format->info().layout;
            packed.shape = kShape;
            packed.n_planes = 1;
            packed.planes[0] = {bytes.data(), bytes.size() / kShape.rows, bytes.size()};
            std::vector<float> want(weights.size()), got(weights.size());
            const auto view = [](std::vector<float>& out) {
                return View{out.data(), DType::kF32, kShape.rows, kShape.cols, kShape.cols};
            };
            format->decode(packed, {0, kShape.rows}, view(want));
            for (const Isa isa : levels()) {
                CAPTURE(static_cast<int>(isa));
                ops::decode_rows(isa, packed, {0, kShape.rows}, view(got));
                CHECK(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)) == 0);
            }
        }
    }

    TEST_CASE("encode: a level's kernel refuses what the format refuses, by the same place") {
        std::vector<float> weights = awkward_rows();
        weights[2 * kShape.cols + 301] = std::numeric_limits<float>::infinity();
        const WeightFormat& format = weight_formats().get("q4_k", "test");
        for (const Isa isa : levels()) {
            try {
                (void)encoded(*ops::encoder(isa, format, kShape, {}), weights);
                FAIL("nothing was thrown");
            } catch (const Error& e) {
                CHECK(e.exit() == Exit::kBadData);
                CHECK(e.where() == "row 2, column 301");
            }
        }
    }
}
