// SPDX-License-Identifier: Apache-2.0
// Blocks made and decoded by ggml's reference code (scripts/make_golden_format.py).
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "format/weight_format.h"

using namespace thimble;

namespace {

struct BytesSink final : PlaneSink {
    std::vector<std::byte> bytes;
    void append(int, std::span<const std::byte> more) override {
        bytes.insert(bytes.end(), more.begin(), more.end());
    }
};

struct Golden {
    std::unique_ptr<ModelFile> file =
        ModelFile::open(THIMBLE_TESTS_DIR "/golden/format/blocks.gguf");

    [[nodiscard]] std::vector<std::byte> bytes(const std::string& name) const {
        const TensorEntry& entry = file->get(name);
        std::vector<std::byte> out(entry.bytes);
        file->read(entry, 0, out);
        return out;
    }
    [[nodiscard]] std::vector<float> floats(const std::string& name) const {
        const std::vector<std::byte> raw = bytes(name);
        std::vector<float> out(raw.size() / sizeof(float));
        std::memcpy(out.data(), raw.data(), raw.size());
        return out;
    }
    [[nodiscard]] Shape2 shape() const {
        const TensorEntry& entry = file->get("input");
        return {static_cast<std::int64_t>(entry.dims[0]), static_cast<std::int64_t>(entry.dims[1])};
    }
};

// First those whose encoder is ggml's, byte for byte.
const char* const kTypes[] = {"q8_0",    "q4_0",  "q4_1",  "q5_0",    "q5_1",   "q4_k",
                              "q5_k",    "q6_k",  "q2_k",  "q3_k",    "iq4_nl", "iq4_xs",
                              "mxfp4",   "tq1_0", "tq2_0", "iq2_xxs", "iq2_xs", "iq2_s",
                              "iq3_xxs", "iq3_s", "iq1_s", "iq1_m"};
constexpr std::size_t kFixedTypes = 3;

double squared_error(std::span<const float> a, std::span<const float> b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
        sum += d * d;
    }
    return sum;
}

// What the best multiple of `b` leaves of `a`.
double error_of_best_multiple(std::span<const float> a, std::span<const float> b) {
    double aa = 0, ab = 0, bb = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        aa += static_cast<double>(a[i]) * static_cast<double>(a[i]);
        ab += static_cast<double>(a[i]) * static_cast<double>(b[i]);
        bb += static_cast<double>(b[i]) * static_cast<double>(b[i]);
    }
    return bb > 0 ? std::max(aa - ab * ab / bb, 0.0) : aa;
}
// Codebook types keep the weights' scale, at the price of some error.
bool keeps_scale(std::string_view type) {
    return type.starts_with("iq") && !type.starts_with("iq4");
}

std::vector<float> decode(const WeightFormat& format, Shape2 shape,
                          const std::vector<std::byte>& packed) {
    const PlaneInfo plane = format.planes(shape, {})[0];
    REQUIRE(plane.bytes == packed.size());
    PackedView view;
    view.layout = format.info().layout;
    view.shape = shape;
    view.n_planes = 1;
    view.planes[0] = {packed.data(), plane.row_bytes, plane.bytes};
    std::vector<float> out(static_cast<std::size_t>(shape.rows * shape.cols));
    format.decode(view, {0, shape.rows},
                  {out.data(), DType::kF32, shape.rows, shape.cols, shape.cols});
    return out;
}

}  // namespace

TEST_SUITE("format") {
    TEST_CASE("golden: ggml's blocks decode to ggml's floats, bit for bit") {
        const Golden golden;
        for (const char* type : kTypes) {
            CAPTURE(std::string(type));
            const WeightFormat& format = weight_formats().get(type, "test");
            const std::vector<float> want = golden.floats(std::string(type) + ".decoded");
            const std::vector<float> got = decode(format, golden.shape(), golden.bytes(type));
            for (std::size_t i = 0; i < want.size(); ++i) {
                CAPTURE(i);
                REQUIRE(got[i] == want[i]);  // zeros may differ in sign
            }
        }
    }

    TEST_CASE("golden: random blocks decode to what the gguf package makes of them, bit for bit") {
        const Golden golden;
        for (const char* type : kTypes) {
            CAPTURE(std::string(type));
            const std::string name = std::string(type) + ".random";
            const std::vector<float> want = golden.floats(name + ".decoded");
            const Shape2 shape{2, static_cast<std::int64_t>(want.size()) / 2};
            const std::vector<float> got =
                decode(weight_formats().get(type, "test"), shape, golden.bytes(name));
            for (std::size_t i = 0; i < want.size(); ++i) {
                CAPTURE(i);
                REQUIRE(got[i] == want[i]);
            }
        }
    }

    TEST_CASE("golden: q8_0, q4_0 and q4_1 encode to ggml's bytes") {
        const Golden golden;
        const std::vector<float> input = golden.floats("input");
        for (const char* type : std::span(kTypes).first(kFixedTypes)) {
            CAPTURE(std::string(type));
            const WeightFormat& format = weight_formats().get(type, "test");
            BytesSink sink;
            format.encoder(golden.shape(), {})->encode(0, input, sink);
            const std::vector<std::byte> want = golden.bytes(type);
            REQUIRE(sink.bytes.size() == want.size());
            for (std::size_t i = 0; i < want.size(); ++i) {
                CAPTURE(i);
                REQUIRE(static_cast<int>(sink.bytes[i]) == static_cast<int>(want[i]));
            }
        }
    }

    TEST_CASE("golden: the other encoders leave no more error than ggml's") {
        const Golden golden;
        const Shape2 shape = golden.shape();
        const std::vector<float> input = golden.floats("input");
        for (const char* type : std::span(kTypes).subspan(kFixedTypes)) {
            const WeightFormat& format = weight_formats().get(type, "test");
            BytesSink sink;
            format.encoder(shape, {})->encode(0, input, sink);
            const std::vector<float> ours = decode(format, shape, sink.bytes);
            const std::vector<float> theirs = golden.floats(std::string(type) + ".decoded");
            double sum_ours = 0, sum_theirs = 0;  // each row's error relative to its norm
            for (std::int64_t r = 0; r < shape.rows; ++r) {
                CAPTURE(std::string(type));
                CAPTURE(r);
                const auto at = static_cast<std::size_t>(r * shape.cols);
                const auto n = static_cast<std::size_t>(shape.cols);
                const auto row = std::span(input).subspan(at, n);
                const double norm = squared_error(row, std::vector<float>(n, 0.0f)) + 1e-30;
                const auto error = keeps_scale(type) ? error_of_best_multiple : squared_error;
                const double mine = error(row, std::span(ours).subspan(at, n)) / norm;
                const double other = error(row, std::span(theirs).subspan(at, n)) / norm;
                // What the rounding of d and dmin to halves may leave: (2^-11)^2 each.
                CHECK(mine <= 1.03 * other + 0x1p-21);
                sum_ours += mine;
                sum_theirs += other;
            }
            CHECK(sum_ours <= sum_theirs);
        }
    }
}
