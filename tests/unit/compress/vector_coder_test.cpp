// SPDX-License-Identifier: Apache-2.0
// The casts of embedding vectors against the standards' values and a search over all of them.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "compress/vector_coder.h"
#include "kernels/layout/rng.h"

using namespace thimble;

namespace {

// What a small float's bits say: sign, exponent of the given bias, mantissa; subnormals.
double value_by_rule(unsigned code, int exponent_bits, int mantissa_bits, int bias) {
    const unsigned mantissa = code & ((1u << mantissa_bits) - 1);
    const unsigned exponent = code >> mantissa_bits & ((1u << exponent_bits) - 1);
    const bool negative = (code >> (mantissa_bits + exponent_bits) & 1) != 0;
    const double magnitude = exponent == 0
                                 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                                 : std::ldexp(mantissa + (1 << mantissa_bits),
                                              static_cast<int>(exponent) - bias - mantissa_bits);
    return negative ? -magnitude : magnitude;
}

// The nearest of the finite codes, of two the even one; beyond the largest that one. x is finite.
unsigned nearest_code(double x, const std::vector<double>& magnitudes, unsigned sign_bit) {
    const double wanted = std::abs(x);
    unsigned best = 0;
    for (unsigned c = 1; c < magnitudes.size(); ++c) {
        const double now = std::abs(magnitudes[c] - wanted),
                     before = std::abs(magnitudes[best] - wanted);
        if (now < before || (now == before && c % 2 == 0)) best = c;
    }
    return best | (std::signbit(x) ? sign_bit : 0);
}

struct SmallFloat {
    VectorCode code;
    int exponent_bits, mantissa_bits, bias;
    unsigned finite;  // codes of magnitudes
    double most;
    [[nodiscard]] unsigned sign_bit() const { return 1u << (exponent_bits + mantissa_bits); }
    [[nodiscard]] std::vector<double> magnitudes() const {
        std::vector<double> out;
        for (unsigned c = 0; c < finite; ++c)
            out.push_back(value_by_rule(c, exponent_bits, mantissa_bits, bias));
        return out;
    }
};
constexpr SmallFloat kSmall[] = {{VectorCode::kE4m3, 4, 3, 7, 0x7f, 448},
                                 {VectorCode::kE5m2, 5, 2, 15, 0x7c, 57344},
                                 {VectorCode::kE2m1, 2, 1, 1, 8, 6}};

VectorCoder cast_coder(VectorCode code, std::int64_t dims, int prescale = 0) {
    CodeParameters p;
    p.code = code, p.dims = dims, p.prescale = prescale;
    return VectorCoder(p);
}

std::uint8_t encoded(VectorCode code, float x) {
    std::uint8_t out = 0;
    cast_coder(code, 1).encode(&x, &out);
    return out;
}

std::vector<float> normals(std::size_t n, std::uint64_t seed) {
    std::vector<float> out;
    for (std::size_t i = 0; i < n; ++i) {
        float sum = -2;
        for (const std::uint32_t v : philox(seed, i).v) sum += unit_float(v);
        out.push_back(1.7320508f * sum);
    }
    return out;
}

}  // namespace

TEST_CASE("vector codes: every code is the number that its bits say") {
    for (const SmallFloat& f : kSmall) {
        CAPTURE(name_of(f.code));
        CHECK(f.magnitudes().back() == f.most);
        for (unsigned c = 0; c < 2 * f.sign_bit(); ++c) {
            const auto byte = static_cast<std::uint8_t>(c);
            float x = 0;
            cast_coder(f.code, 1).decode(&byte, &x);
            if ((c & (f.sign_bit() - 1)) >= f.finite) {
                CHECK_FALSE(std::isfinite(x));
                continue;
            }
            CHECK(x == value_by_rule(c, f.exponent_bits, f.mantissa_bits, f.bias));
            if (x != 0) CHECK(std::signbit(x) == (c >= f.sign_bit()));
        }
    }
}

TEST_CASE("vector codes: every half goes to the nearest code, halfway to the even one") {
    for (const SmallFloat& f : kSmall) {
        CAPTURE(name_of(f.code));
        const std::vector<double> magnitudes = f.magnitudes();
        for (unsigned h = 0; h < 65536; ++h) {
            const float x = f16_to_f32(static_cast<std::uint16_t>(h));
            if (!std::isfinite(x)) continue;
            REQUIRE(encoded(f.code, x) == nearest_code(x, magnitudes, f.sign_bit()));
        }
    }
}

TEST_CASE("vector codes: floats beside every halfway point round away from it") {
    for (const SmallFloat& f : kSmall) {
        const std::vector<double> m = f.magnitudes();
        for (unsigned c = 0; c + 1 < m.size(); ++c) {
            const auto halfway = static_cast<float>((m[c] + m[c + 1]) / 2);  // exact
            CAPTURE(halfway);
            CHECK(encoded(f.code, std::nextafter(halfway, 0.0f)) == c);
            CHECK(encoded(f.code, halfway) == c + c % 2);
            CHECK(encoded(f.code, std::nextafter(halfway, 1e9f)) == c + 1);
        }
        const unsigned most = f.finite - 1;
        CHECK(encoded(f.code, std::numeric_limits<float>::max()) == most);
        CHECK(encoded(f.code, std::numeric_limits<float>::lowest()) == (most | f.sign_bit()));
    }
}

TEST_CASE("vector codes: int8 spans each dimension, and is half a step off at most") {
    const std::vector<float> x = normals(std::size_t{500} * 7, 3);
    VectorStatistics statistics;
    for (std::size_t r = 0; r < 500; ++r) statistics.add(std::span(x).subspan(r * 7, 7));
    const VectorCoder coder(VectorCode::kU8, 0, statistics);
    std::vector<bool> least(7), greatest(7);
    for (std::size_t r = 0; r < 500; ++r) {
        std::uint8_t codes[7];
        float again[7];
        coder.encode(&x[r * 7], codes);
        coder.decode(codes, again);
        for (std::size_t k = 0; k < 7; ++k) {
            CHECK(std::abs(again[k] - x[r * 7 + k]) <= 0.5001 * coder.parameters().step[k]);
            if (codes[k] == 0) least[k] = true;
            if (codes[k] == 255) greatest[k] = true;
        }
    }
    CHECK(least == std::vector<bool>(7, true));
    CHECK(greatest == std::vector<bool>(7, true));
    // What calibration did not see is held to its range; a constant dimension is that constant.
    VectorStatistics narrow;
    const float low[2] = {-1, 4}, high[2] = {1, 4};
    narrow.add(low), narrow.add(high);
    const VectorCoder small(VectorCode::kU8, 0, narrow);
    const float beyond[2] = {9, 5};
    std::uint8_t codes[2];
    float again[2];
    small.encode(beyond, codes), small.decode(codes, again);
    CHECK(again[0] == doctest::Approx(1));
    CHECK(again[1] == 4);
}

TEST_CASE("vector codes: signs lie as numpy.packbits lays them, two e2m1 in a byte") {
    const float x[11] = {1, -1, 0, 2, -0.0f, 3, -2, 1e-30f, -5, 6, 7};
    VectorStatistics statistics;
    statistics.add(x);
    const VectorCoder signs(VectorCode::kSign, 0, statistics);
    std::uint8_t bits[2];
    signs.encode(x, bits);
    CHECK(bits[0] == 0b10010101);
    CHECK(bits[1] == 0b01100000);
    float again[11];
    signs.decode(bits, again);
    CHECK(again[0] == doctest::Approx(27.0 / 11));
    CHECK(again[1] == -again[0]);
    std::uint8_t nibbles[6];
    cast_coder(VectorCode::kE2m1, 11).encode(x, nibbles);
    CHECK(nibbles[0] == (2 | 10 << 4));
    CHECK(nibbles[5] == 7);
}

TEST_CASE("vector codes: a prescale keeps small numbers, and comes off again exactly") {
    const float x[2] = {0x1p-13f, -0x1.8p-12f};
    std::uint8_t codes[2];
    float again[2];
    cast_coder(VectorCode::kE4m3, 2).encode(x, codes);
    cast_coder(VectorCode::kE4m3, 2).decode(codes, again);
    CHECK(again[0] == 0);
    cast_coder(VectorCode::kE4m3, 2, 9).encode(x, codes);
    cast_coder(VectorCode::kE4m3, 2, 9).decode(codes, again);
    CHECK(again[0] == x[0]);
    CHECK(again[1] == x[1]);
}

TEST_CASE("vector codes: an adapted query ranks as the decoded vectors do") {
    const std::vector<float> x = normals(std::size_t{40} * 5, 8), q = normals(5, 9);
    VectorStatistics statistics;
    for (std::size_t r = 0; r < 40; ++r) statistics.add(std::span(x).subspan(r * 5, 5));
    for (const EmbeddingFormat& format : embedding_formats()) {
        CAPTURE(format.name);
        const VectorCoder coder(format.code, 0, statistics);
        float adapted[5];
        coder.adapt(q.data(), adapted);
        double factor = 0, offset = 0;
        for (std::size_t r = 0; r < 40; ++r) {
            std::uint8_t codes[20];
            float again[5];
            coder.encode(&x[r * 5], codes);
            coder.decode(codes, again);
            double scanned = 0, meant = 0;
            for (int k = 0; k < 5; ++k) {
                scanned += static_cast<double>(adapted[k]) * vector_value(format.code, codes, k);
                meant += static_cast<double>(q[static_cast<std::size_t>(k)]) * again[k];
            }
            if (format.code == VectorCode::kSign)
                factor = coder.parameters().magnitude;
            else
                factor = 1;
            if (r == 0) offset = meant - factor * scanned;
            CHECK(meant - factor * scanned == doctest::Approx(offset).epsilon(1e-5));
        }
    }
}
