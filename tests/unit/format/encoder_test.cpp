// SPDX-License-Identifier: Apache-2.0
// Encoders whose best result can be found by trying everything.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "format/weight_format.h"
#include "kernels/layout/all.h"

using namespace thimble;

namespace {

float normal(std::uint64_t i) {
    const Philox4 r = philox(31, i);
    float sum = -2;
    for (const std::uint32_t v : r.v) sum += unit_float(v);
    return sum * 1.7320508f;
}

// Blocks of one row: normal weights, some rows with a few large ones.
std::vector<float> weights(std::int64_t n, int kind) {
    std::vector<float> out(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < out.size(); ++i) {
        out[i] = normal(i + 100000 * static_cast<std::size_t>(kind)) * 0.05f;
        if (kind == 1 && i % 19 == 3) out[i] *= 6;
        if (kind == 2) out[i] = std::abs(out[i]);
    }
    return out;
}
std::vector<float> importance(std::int64_t n) {
    std::vector<float> out(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = std::exp(1.5f * normal(i + 900000));
    return out;
}

struct Sink final : PlaneSink {
    std::vector<std::byte> bytes;
    void append(int, std::span<const std::byte> more) override {
        bytes.insert(bytes.end(), more.begin(), more.end());
    }
};

// Weighted squared error of each block as the format encodes a row.
template <LayoutId id>
std::vector<double> encoded_errors(const std::vector<float>& row, const std::vector<float>& w) {
    using L = Layout<id>;
    EncodeOptions options;
    options.column_importance = w;
    Sink sink;
    format_of(id).encoder({1, std::ssize(row)}, options)->encode(0, row, sink);
    std::vector<double> errors;
    const auto* blocks = reinterpret_cast<const typename L::Block*>(sink.bytes.data());
    for (std::size_t at = 0; at < row.size(); at += L::kElements) {
        double values[L::kElements], error = 0;
        L::unpack(blocks[at / L::kElements], values);
        for (std::size_t i = 0; i < L::kElements; ++i) {
            const double d = values[i] - static_cast<double>(row[at + i]);
            error += (w.empty() ? 1.0 : static_cast<double>(w[at + i])) * d * d;
        }
        errors.push_back(error);
    }
    return errors;
}

// What a scale leaves of a block when every weight takes the nearest of `values`, ascending.
double error_of_scale(const std::vector<float>& row, const std::vector<float>& w, std::size_t at,
                      std::size_t n, const std::vector<double>& values, double scale) {
    double error = 0;
    for (std::size_t i = at; i < at + n; ++i) {
        double least = INFINITY;
        for (const double v : values) {
            const double d = v * scale - static_cast<double>(row[i]);
            least = std::min(least, d * d);
        }
        error += (w.empty() ? 1.0 : static_cast<double>(w[i])) * least;
    }
    return error;
}

std::vector<double> table(int (*value)(int)) {
    std::vector<double> out;
    for (int code = 0; code < 16; ++code) out.push_back(value(code));
    return out;
}

// As another encoder leaves them: the largest scale and minimum are 63, every group's least
// weight is code 0, and its greatest may be a step or two short of the top.
template <LayoutId id>
void check_affine_blocks_stay(int top) {
    std::vector<float> row;
    for (unsigned b = 0; b < 64; ++b) {
        const float d = f16_to_f32(f32_to_f16(1e-4f * (1 + unit_float(philox(41, b).v[0]))));
        const float dmin = f16_to_f32(f32_to_f16(d * static_cast<float>(top) / 2));
        for (unsigned g = 0; g < 8; ++g) {
            const Philox4 r = philox(42, 8 * b + g);
            const unsigned scale = g == b % 8 ? 63 : 32 + r.v[0] % 31;
            const unsigned minimum = g == b / 8 ? 63 : 32 + r.v[1] % 31;
            const unsigned codes = static_cast<unsigned>(top) + 1 - r.v[2] % 3;
            for (unsigned i = 0; i < 32; ++i) {
                const unsigned code = i == 5    ? 0
                                      : i == 11 ? codes - 1
                                                : philox(43, 256 * b + 32 * g + i).v[0] % codes;
                row.push_back(d * static_cast<float>(scale * code) -
                              dmin * static_cast<float>(minimum));
                row.back() = f16_to_f32(f32_to_f16(row.back()));
            }
        }
    }
    for (const bool weighted : {false, true}) {
        std::vector<float> w;
        if (weighted) w = importance(std::ssize(row));
        double error = 0, power = 0;
        for (const double e : encoded_errors<id>(row, w)) error += e;
        for (std::size_t i = 0; i < row.size(); ++i) {
            const double x = static_cast<double>(row[i]);
            power += (weighted ? static_cast<double>(w[i]) : 1.0) * x * x;
        }
        CAPTURE(weighted);
        CHECK(std::sqrt(error / power) < 6e-4);  // halves: 3e-4
    }
}

}  // namespace

TEST_SUITE("format") {
    TEST_CASE("encoder: mxfp4 finds the best of all exponents") {
        const std::vector<double> values = table(E2m1::value);
        for (int kind = 0; kind < 3; ++kind) {
            const std::vector<float> row = weights(32 * 64, kind);
            for (const bool weighted : {false, true}) {
                const std::vector<float> w = weighted ? importance(std::ssize(row)) : row;
                const std::vector<float> used = weighted ? w : std::vector<float>{};
                const auto errors = encoded_errors<LayoutId::k_mxfp4>(row, used);
                for (std::size_t b = 0; b < errors.size(); ++b) {
                    double least = INFINITY;
                    for (int e = 100; e < 140; ++e)
                        least = std::min(least, error_of_scale(row, used, 32 * b, 32, values,
                                                               std::ldexp(1.0, e - 128)));
                    CAPTURE(kind);
                    CAPTURE(b);
                    // With importance a peak may be given up for good; that far is not searched.
                    CHECK(errors[b] <= least * (weighted ? 1.1 : 1 + 1e-6));
                }
            }
        }
    }

    TEST_CASE("encoder: no ternary scale is better than the one found") {
        for (int kind = 0; kind < 3; ++kind) {
            const std::vector<float> row = weights(256 * 6, kind);
            const std::vector<float> w = importance(std::ssize(row));
            for (const std::vector<float>& used : {std::vector<float>{}, w}) {
                const auto errors = encoded_errors<LayoutId::k_tq2_0>(row, used);
                CHECK(errors == encoded_errors<LayoutId::k_tq1_0>(row, used));
                for (std::size_t b = 0; b < errors.size(); ++b) {
                    double least = INFINITY;
                    for (int step = 1; step < 500; ++step)
                        least = std::min(least, error_of_scale(row, used, 256 * b, 256, {-1, 0, 1},
                                                               0.001 * step));
                    CHECK(errors[b] <= least * (1 + 1e-5));  // the scale is rounded to a half
                }
            }
        }
    }

    TEST_CASE("encoder: iq4_nl comes near the best of a thousand scales") {
        const std::vector<double> values = table(Iq4::value);
        for (int kind = 0; kind < 3; ++kind) {
            const std::vector<float> row = weights(32 * 24, kind);
            const std::vector<float> w = importance(std::ssize(row));
            for (const std::vector<float>& used : {std::vector<float>{}, w}) {
                const auto errors = encoded_errors<LayoutId::k_iq4_nl>(row, used);
                double sum = 0, best = 0;
                for (std::size_t b = 0; b < errors.size(); ++b) {
                    double peak = 0, least = INFINITY;
                    for (std::size_t i = 32 * b; i < 32 * b + 32; ++i)
                        peak = std::max(peak, std::abs(static_cast<double>(row[i])));
                    for (int step = -500; step <= 500; ++step)
                        least = std::min(least, error_of_scale(row, used, 32 * b, 32, values,
                                                               peak * step / (500 * 80.0)));
                    CHECK(errors[b] <= 1.5 * least);
                    sum += errors[b];
                    best += least;
                }
                CHECK(sum <= 1.03 * best);
            }
        }
    }

    TEST_CASE("encoder: weights that are ternary already stay as they are") {
        std::vector<float> row(512);
        for (std::size_t i = 0; i < row.size(); ++i)
            row[i] = 0.0371f * static_cast<float>(static_cast<int>(i * 7 % 3) - 1);
        for (float& v : row) v = f16_to_f32(f32_to_f16(v));
        for (const double error : encoded_errors<LayoutId::k_tq1_0>(row, {})) CHECK(error == 0);
        for (const double error : encoded_errors<LayoutId::k_tq2_0>(row, {})) CHECK(error == 0);
    }

    TEST_CASE("encoder: mxfp4 blocks on the grid come back bit for bit") {
        for (int exponent = 0; exponent <= kE8m0Finite; exponent += 7) {
            Layout<LayoutId::k_mxfp4>::Block block;
            block.d = static_cast<std::uint8_t>(exponent);
            for (unsigned i = 0; i < 16; ++i)
                block.codes[i] = static_cast<std::uint8_t>(philox(32, i).v[0] & 0x77u);
            block.codes[3] = 0xf7;  // the peak, of both signs
            std::vector<float> row(32);
            Layout<LayoutId::k_mxfp4>::unpack(block, row.data());
            for (const double error : encoded_errors<LayoutId::k_mxfp4>(row, {})) CHECK(error == 0);
        }
    }

    TEST_CASE("encoder: blocks of q4_k and q5_k that went through f16 come back") {
        check_affine_blocks_stay<LayoutId::k_q4_k>(15);
        check_affine_blocks_stay<LayoutId::k_q5_k>(31);
    }
}
