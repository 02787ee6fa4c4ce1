// SPDX-License-Identifier: Apache-2.0
// Principal components: identities that hold for any vectors, and directions known beforehand.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "calib/eigen.h"
#include "compress/principal.h"
#include "core/cpu.h"
#include "kernels/cpu/scan_problem.h"
#include "kernels/layout/rng.h"
#include "ops/scan.h"

using namespace thimble;

namespace {

float normal(std::uint64_t seed, std::uint64_t i) {
    float sum = -2;
    for (const std::uint32_t v : philox(seed, i).v) sum += unit_float(v);
    return 1.7320508f * sum;
}

// Vectors of unlike variances that hang together, around a mean.
struct Cloud {
    Cloud(std::int64_t n, std::int64_t d, std::uint64_t seed) : rows(n), dims(d) {
        for (std::int64_t r = 0; r < n; ++r) {
            float before = 0;
            for (std::int64_t k = 0; k < d; ++k) {
                const auto at = static_cast<std::uint64_t>(r * d + k);
                before = 0.6f * before + normal(seed, at) / (1 + 0.1f * static_cast<float>(k));
                x.push_back(before + 0.01f * static_cast<float>(k) - 0.3f);
            }
        }
    }
    [[nodiscard]] EachVectors each(std::int64_t most) {
        return [this, most](const std::function<void(std::span<float>)>& fn) {
            for (std::int64_t r = 0; r < rows; r += most) {
                const std::int64_t n = std::min(most, rows - r);
                std::vector<float> piece(x.begin() + r * dims, x.begin() + (r + n) * dims);
                fn(piece);
            }
        };
    }
    [[nodiscard]] double dot(std::int64_t a, std::int64_t b, std::span<const float> mean) const {
        double sum = 0;
        for (std::int64_t k = 0; k < dims; ++k) {
            const double m = mean[static_cast<std::size_t>(k)];
            sum += (x[static_cast<std::size_t>(a * dims + k)] - m) *
                   (x[static_cast<std::size_t>(b * dims + k)] - m);
        }
        return sum;
    }
    std::int64_t rows, dims;
    std::vector<float> x;
};

std::vector<float> projected(const PrincipalComponents& c, const Cloud& cloud, std::int64_t count,
                             Team& team) {
    std::vector<float> x = cloud.x,
                       out(static_cast<std::size_t>(cloud.rows * ops::padded_dims(count)));
    x.resize(x.size() + cpu::kScanPadding);
    c.project(x.data(), cloud.rows, true, count, out.data(), team, best_isa());
    return out;
}

}  // namespace

TEST_CASE("principal components: all of them keep every product of centred vectors") {
    Team team(2);
    for (const std::int64_t dims : {1, 7, 48, 130}) {
        Cloud cloud(200, dims, 5);
        const PrincipalComponents c(dims, 64, cloud.each(64), team, best_isa());
        const std::vector<float> z = projected(c, cloud, dims, team);
        const std::int64_t stride = ops::padded_dims(dims);
        double worst = 0;
        for (std::int64_t a = 0; a < 60; ++a) {
            for (std::int64_t b = 0; b <= a; ++b) {
                double sum = 0;
                for (std::int64_t k = 0; k < dims; ++k)
                    sum += static_cast<double>(z[static_cast<std::size_t>(a * stride + k)]) *
                           z[static_cast<std::size_t>(b * stride + k)];
                const double size =
                    std::sqrt(cloud.dot(a, a, c.mean()) * cloud.dot(b, b, c.mean()));
                worst = std::max(worst, std::abs(sum - cloud.dot(a, b, c.mean())) / size);
            }
        }
        CAPTURE(dims);
        CHECK(worst < 1e-5);
        std::vector<float> tight, again(cloud.x.size());
        for (std::int64_t r = 0; r < cloud.rows; ++r)
            tight.insert(tight.end(), z.begin() + r * stride, z.begin() + r * stride + dims);
        c.restore(tight.data(), cloud.rows, again.data(), team);
        for (std::size_t i = 0; i < again.size(); ++i)
            CHECK(again[i] == doctest::Approx(cloud.x[i]).epsilon(1e-5));
    }
}

TEST_CASE("principal components: variances fall, add up, and are those of the projections") {
    Team team(2);
    Cloud cloud(700, 40, 6);
    PrincipalComponents c(40, 100, cloud.each(100), team, best_isa());
    double total = 0;
    for (std::int64_t k = 0; k < 40; ++k) {
        double sum = 0, squares = 0;
        for (std::int64_t r = 0; r < cloud.rows; ++r) {
            const double v = cloud.x[static_cast<std::size_t>(r * 40 + k)];
            sum += v, squares += v * v;
        }
        const double mean = sum / 700;
        CHECK(c.mean()[static_cast<std::size_t>(k)] == doctest::Approx(mean).epsilon(1e-6));
        total += squares / 700 - mean * mean;
    }
    CHECK(c.total_variance() == doctest::Approx(total).epsilon(1e-6));
    double sum = 0;
    const std::vector<float> z = projected(c, cloud, 40, team);
    for (std::int64_t k = 0; k < 40; ++k) {
        const double variance = c.variances()[static_cast<std::size_t>(k)];
        if (k > 0) CHECK(variance <= c.variances()[static_cast<std::size_t>(k - 1)]);
        sum += variance;
        double squares = 0;
        for (std::int64_t r = 0; r < cloud.rows; ++r)
            squares += std::pow(z[static_cast<std::size_t>(r * ops::padded_dims(40) + k)], 2);
        CHECK(squares / 700 == doctest::Approx(variance).epsilon(1e-4));
    }
    CHECK(sum == doctest::Approx(total).epsilon(1e-5));
    CHECK(c.explained(40) == doctest::Approx(1));
    CHECK(c.explained(10) < c.explained(20));
}

TEST_CASE("principal components: the same bits in pieces by any number of threads") {
    Cloud cloud(3000, 60, 7);  // in pieces so long that threads share their products
    Team one(1), three(3);
    PrincipalComponents a(60, 2000, cloud.each(2000), one, best_isa());
    PrincipalComponents b(60, 2000, cloud.each(2000), three, best_isa());
    CHECK(std::equal(a.basis().begin(), a.basis().end(), b.basis().begin()));
}

TEST_CASE("principal components: points on a line have that direction") {
    const float direction[3] = {2 / 3.0f, -2 / 3.0f, 1 / 3.0f};
    Cloud cloud(50, 3, 1);
    for (std::int64_t r = 0; r < 50; ++r)
        for (std::size_t k = 0; k < 3; ++k)
            cloud.x[static_cast<std::size_t>(r * 3) + k] =
                5 + normal(2, static_cast<std::uint64_t>(r)) * direction[k];
    Team team(1);
    PrincipalComponents c(3, 16, cloud.each(16), team, best_isa());
    const float sign = c.basis()[0] > 0 ? 1.0f : -1.0f;
    for (std::size_t k = 0; k < 3; ++k)
        CHECK(sign * c.basis()[k] == doctest::Approx(direction[k]).epsilon(1e-4));
    CHECK(c.variances()[1] < 1e-6f * c.variances()[0]);
}

TEST_CASE("symmetric_eigen: vectors are what the matrix stretches, orthonormal") {
    constexpr std::size_t n = 24;
    std::vector<double> m(n * n), values(n);
    for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j <= i; ++j)
            m[i * n + j] = m[j * n + i] = static_cast<double>(normal(9, i * n + j));
    const std::vector<double> matrix = m;
    symmetric_eigen(m, values);
    for (std::size_t i = 0; i < n; ++i) {
        if (i > 0) CHECK(values[i] <= values[i - 1]);
        for (std::size_t j = 0; j < n; ++j) {
            double stretched = 0, product = 0;
            for (std::size_t k = 0; k < n; ++k) {
                stretched += matrix[j * n + k] * m[i * n + k];
                product += m[i * n + k] * m[j * n + k];
            }
            CHECK(stretched == doctest::Approx(values[i] * m[i * n + j]).epsilon(1e-9).scale(10));
            CHECK(product == doctest::Approx(i == j ? 1.0 : 0.0).epsilon(1e-12).scale(10));
        }
    }
}
