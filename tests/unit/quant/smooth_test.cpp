// SPDX-License-Identifier: Apache-2.0
#include "quant/smooth.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/layout/half.h"
#include "kernels/layout/rng.h"

using namespace thimble;

namespace {

double uniform(std::uint64_t seed, std::uint64_t i) {
    return static_cast<double>(philox(seed, i).v[0]) / 2147483648.0 - 1;
}

// x W^T of [tokens, n] and [m, n], each row on its own grid of 255 steps, as W8A8 has it.
double int8_error(const std::vector<double>& x, const std::vector<double>& w, std::size_t n) {
    const auto rounded = [n](std::vector<double> rows) {
        for (std::size_t at = 0; at < rows.size(); at += n) {
            double peak = 0;
            for (std::size_t j = 0; j < n; ++j) peak = std::max(peak, std::abs(rows[at + j]));
            const double step = peak / 127;
            for (std::size_t j = 0; j < n; ++j)
                rows[at + j] = step * std::nearbyint(rows[at + j] / step);
        }
        return rows;
    };
    const std::vector<double> qx = rounded(x), qw = rounded(w);
    double error = 0, size = 0;
    for (std::size_t t = 0; t < x.size(); t += n) {
        for (std::size_t r = 0; r < w.size(); r += n) {
            double exact = 0, got = 0;
            for (std::size_t j = 0; j < n; ++j) {
                exact += x[t + j] * w[r + j];
                got += qx[t + j] * qw[r + j];
            }
            error += (got - exact) * (got - exact), size += exact * exact;
        }
    }
    return std::sqrt(error / size);
}

}  // namespace

TEST_CASE("smooth: the scale is equation 4, with floors below weights and scales") {
    CHECK(smoothing_scale(9, 4, 0.5) == doctest::Approx(1.5));
    CHECK(smoothing_scale(9, 4, 0) == 0.25);
    CHECK(smoothing_scale(9, 4, 1) == 9);
    CHECK(smoothing_scale(8, 2, 0.75) == doctest::Approx(std::pow(8, 0.75) / std::pow(2, 0.25)));
    CHECK(smoothing_scale(0, 4, 0.5) == 1e-5);
    CHECK(smoothing_scale(0, 4, 0) == 0.25);
    CHECK(smoothing_scale(1, 0, 0) == doctest::Approx(1e5));
    CHECK(smoothing_scale(1, 0, 1) == 1);
}

TEST_CASE("smooth: an outlier channel's error in int8 falls at least five-fold") {
    constexpr std::size_t kWidth = 128, kTokens = 32, kRows = 64, kOutlier = 37;
    std::vector<double> x(kTokens * kWidth), w(kRows * kWidth);
    for (std::size_t i = 0; i < x.size(); ++i)
        x[i] = uniform(60, i) * (i % kWidth == kOutlier ? 300 : 1);
    for (std::size_t i = 0; i < w.size(); ++i)
        w[i] = uniform(61, i) * (i % kWidth == kOutlier ? 0.01 : 1);
    const double before = int8_error(x, w, kWidth);
    for (std::size_t j = 0; j < kWidth; ++j) {
        double squares = 0, peak = 0;
        for (std::size_t t = 0; t < kTokens; ++t) squares += x[t * kWidth + j] * x[t * kWidth + j];
        for (std::size_t r = 0; r < kRows; ++r) peak = std::max(peak, std::abs(w[r * kWidth + j]));
        const double s = smoothing_scale(std::sqrt(squares / kTokens), peak, 0.5);
        for (std::size_t t = 0; t < kTokens; ++t) x[t * kWidth + j] /= s;
        for (std::size_t r = 0; r < kRows; ++r) w[r * kWidth + j] *= s;
    }
    const double after = int8_error(x, w, kWidth);
    CAPTURE(before);
    CAPTURE(after);
    CHECK(after * 5 < before);
}

TEST_CASE("smooth: what rounding takes from a norm, the columns take back") {
    std::vector<double> whole, wanted;
    for (std::size_t j = 0; j < 400; ++j) {
        whole.push_back(uniform(62, j) * std::exp(3 * uniform(63, j)));
        wanted.push_back(std::exp(4 * uniform(64, j)));
    }
    const struct {
        LayoutId layout;
        double rounding;
    } forms[] = {{LayoutId::k_f64, 0x1p-52},
                 {LayoutId::k_f32, 0x1p-23},
                 {LayoutId::k_f16, 0x1p-10},
                 {LayoutId::k_bf16, 0x1p-7}};
    for (const auto& form : forms) {
        for (const bool difference : {false, true}) {
            CAPTURE(layout_info(form.layout).name);
            CAPTURE(difference);
            std::vector<double> norm = whole, scale = wanted;
            divide_norm({form.layout, difference}, norm, scale);
            for (std::size_t j = 0; j < norm.size(); ++j) {
                // As a file has it, and as a reader sees it.
                double stored = norm[j];
                if (form.layout == LayoutId::k_f32) stored = static_cast<float>(stored);
                if (form.layout == LayoutId::k_f16)
                    stored = f16_to_f32(f32_to_f16(static_cast<float>(stored)));
                if (form.layout == LayoutId::k_bf16)
                    stored = bf16_to_f32(f32_to_bf16(static_cast<float>(stored)));
                CHECK(stored == norm[j]);
                const double read = difference ? stored + 1 : stored;
                if (std::abs(whole[j]) <= form.rounding) continue;  // may be nothing in any case
                CHECK(std::abs(read * scale[j] - whole[j]) <= 0x1p-51 * std::abs(whole[j]));
                if (std::abs(whole[j] / wanted[j]) <= form.rounding) continue;  // may round to zero
                const double off = std::abs(read - whole[j] / wanted[j]);
                const double size = std::abs(whole[j] / wanted[j]) + (difference ? 2 : 0x1p-14);
                CHECK(off <= form.rounding * size);
            }
        }
    }
}

TEST_CASE("smooth: a channel whose quotient cannot be held keeps its size; a norm of zero stays") {
    std::vector<double> norm = {1000, 1e-4, 0, 3}, scale = {1e-5, 1e5, 7, 2};
    divide_norm({LayoutId::k_f16, false}, norm, scale);
    CHECK(norm[0] == 1000);
    CHECK(scale[0] == 1);
    CHECK(norm[1] == f16_to_f32(f32_to_f16(1e-4f)));
    CHECK(norm[1] * scale[1] == doctest::Approx(1e-4).epsilon(1e-15));
    CHECK(norm[2] == 0);
    CHECK(scale[2] == 7);
    CHECK(norm[3] == 1.5);
    CHECK(scale[3] == 2);
}
