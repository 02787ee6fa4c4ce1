// SPDX-License-Identifier: Apache-2.0
// Errors on weights with heavy tails: those of fixed encoders are what a few lines of doubles give,
// those that search are no larger.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <vector>

#include "format/weight_format.h"
#include "kernels/layout/half.h"
#include "kernels/layout/rng.h"

using namespace thimble;

namespace {

constexpr Shape2 kShape{32, 2048};

struct Planes final : PlaneSink {
    std::array<std::vector<std::byte>, kMaxPlanes> bytes;
    void append(int plane, std::span<const std::byte> more) override {
        auto& to = bytes[static_cast<std::size_t>(plane)];
        to.insert(to.end(), more.begin(), more.end());
    }
};

// Normal, times a lognormal factor: a kurtosis far beyond the normal's three.
std::vector<float> heavy_tails() {
    std::vector<float> out(static_cast<std::size_t>(kShape.rows * kShape.cols));
    for (std::size_t i = 0; i < out.size(); ++i) {
        const Philox4 r = philox(77, i);
        const auto unit = [&](int k) { return (static_cast<double>(r.v[k]) + 0.5) / 4294967296.0; };
        const double radius = std::sqrt(-2 * std::log(unit(0)));
        const double angle = 6.283185307179586 * unit(1);
        out[i] = static_cast<float>(0.02 * radius * std::cos(angle) *
                                    std::exp(0.9 * radius * std::sin(angle)));
    }
    return out;
}

double relative_error(const std::vector<float>& weights, const std::vector<double>& back) {
    double error = 0, norm = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
        const auto w = static_cast<double>(weights[i]);
        error += (w - back[i]) * (w - back[i]), norm += w * w;
    }
    return std::sqrt(error / norm);
}

double error_of(const char* spec, const std::vector<float>& weights) {
    const SharedFormat format = make_format(spec, "test");
    Planes planes;
    const auto encoder = format->encoder(kShape, {});
    if (format->info().needs_scan) encoder->scan(0, weights);
    encoder->encode(0, weights, planes);
    const PackedForm form = form_of(*format, kShape);
    PackedView view{form.layout, kShape, {}, static_cast<int>(form.planes.size()), form.params};
    for (std::size_t p = 0; p < form.planes.size(); ++p)
        view.planes[p] = {planes.bytes[p].data(), form.planes[p].row_bytes, planes.bytes[p].size()};
    std::vector<double> back(weights.size());
    format->decode(view, {0, kShape.rows},
                   {back.data(), DType::kF64, kShape.rows, kShape.cols, kShape.cols});
    return relative_error(weights, back);
}

double as_half(double x) {
    return static_cast<double>(f16_to_f32(f32_to_f16(static_cast<float>(x))));
}

// fn(group, its decoded weights) for groups of `size`.
using Group = std::span<const float>;
double error_by(std::int64_t size, const std::vector<float>& weights,
                const std::function<double(double peak, double least, double weight)>& one) {
    std::vector<double> back;
    for (std::size_t at = 0; at < weights.size(); at += static_cast<std::size_t>(size)) {
        const Group group(weights.data() + at, static_cast<std::size_t>(size));
        double peak = 0, least = 0;
        for (const float w : group) {
            peak = std::max(peak, std::abs(static_cast<double>(w)));
            least = std::min(least, static_cast<double>(w));
        }
        for (const float w : group) back.push_back(one(peak, least, static_cast<double>(w)));
    }
    return relative_error(weights, back);
}

}  // namespace

TEST_CASE("heavy tails: errors of fixed encoders are those of their definitions") {
    const std::vector<float> w = heavy_tails();
    const auto symmetric = [](double most) {
        return [most](double peak, double, double x) {
            const double scale = as_half(peak / most);
            return scale * std::clamp(std::nearbyint(x / scale), -most, most);
        };
    };
    const auto block_float = [](int bits) {
        return [bits](double peak, double, double x) {
            const double step = std::exp2(std::floor(std::log2(peak)) + 2 - bits);
            const double most = std::exp2(bits - 1) - 1;
            return step * std::clamp(std::nearbyint(x / step), -most, most);
        };
    };
    const auto odd = [](int bits) {
        return [bits](double peak, double, double x) {
            const double most = std::exp2(bits) - 1, scale = as_half(peak / most);
            return scale *
                   (2 * std::clamp(std::floor(x / scale / 2), -(most + 1) / 2, (most - 1) / 2) + 1);
        };
    };
    struct Known {
        const char* spec;
        double error;
    };
    for (const Known& known :
         {Known{"int4:group=128,symmetric=true,fit=minmax", error_by(128, w, symmetric(7))},
          Known{"int8:group=64,symmetric=true,fit=minmax", error_by(64, w, symmetric(127))},
          Known{"q8_0", error_by(32, w, symmetric(127))},
          Known{"bfp:fit=peak", error_by(32, w, block_float(4))},
          Known{"bfp:bits=8,group=128,fit=peak", error_by(128, w, block_float(8))},
          Known{"bipolar:bits=4,fit=peak", error_by(128, w, odd(4))},
          Known{"bipolar:bits=8,fit=peak", error_by(128, w, odd(8))}}) {
        CAPTURE(known.spec);
        CHECK(error_of(known.spec, w) == doctest::Approx(known.error).epsilon(0.002));
    }
    // Heavier tails than the normal's do show.
    CHECK(error_of("int4:group=128,symmetric=true,fit=minmax", w) > 1.2 * 0.1168);
}

TEST_CASE(
    "heavy tails: what searches is no worse than what does not, and smaller groups than larger") {
    const std::vector<float> w = heavy_tails();
    struct Pair {
        const char *better, *worse;
    };
    for (const Pair& pair :
         {Pair{"int4", "int4:fit=minmax"}, Pair{"int3", "int3:fit=minmax"},
          Pair{"bitmod4", "bitmod4:fit=peak"}, Pair{"bitmod3", "bitmod3:fit=peak"},
          Pair{"bfp12", "bfp12:fit=peak"}, Pair{"nvfp4", "nvfp4:fit=peak"},
          Pair{"bipolar:bits=3", "bipolar:bits=3,fit=peak"},
          Pair{"int4:group=32", "int4:group=128"}, Pair{"nf4:group=32", "nf4:group=256"},
          Pair{"nf4", "fp4"}, Pair{"jlcm4", "jlcm3"}, Pair{"nvfp4", "mxfp4"}}) {
        CAPTURE(pair.better);
        CAPTURE(pair.worse);
        CHECK(error_of(pair.better, w) < error_of(pair.worse, w));
    }
}
