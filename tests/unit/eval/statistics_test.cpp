// SPDX-License-Identifier: Apache-2.0
// Distributions against closed forms, tables and sums of binomial terms.
#include <doctest/doctest.h>

#include <cmath>
#include <numbers>
#include <vector>

#include "eval/statistics.h"

using namespace thimble::eval;

TEST_CASE("eval statistics: incomplete beta has its closed forms") {
    for (const double x : {0.0, 0.01, 0.3, 0.5, 0.77, 0.999, 1.0}) {
        CAPTURE(x);
        CHECK(incomplete_beta(1, 1, x) == doctest::Approx(x).epsilon(1e-13));
        CHECK(incomplete_beta(3, 1, x) == doctest::Approx(x * x * x).epsilon(1e-13));
        CHECK(incomplete_beta(1, 4, x) == doctest::Approx(1 - std::pow(1 - x, 4)).epsilon(1e-12));
        CHECK(incomplete_beta(0.5, 0.5, x) ==
              doctest::Approx(2 / std::numbers::pi * std::asin(std::sqrt(x))).epsilon(1e-10));
    }
    for (const int n : {1, 5, 20, 300}) {
        for (const int k : {0, 1, 3, 150}) {
            if (k >= n) continue;
            double tail = 0;
            for (int i = 0; i <= k; ++i)
                tail += std::exp(std::lgamma(n + 1.0) - std::lgamma(i + 1.0) -
                                 std::lgamma(n - i + 1.0) + i * std::log(0.3) +
                                 (n - i) * std::log(0.7));
            CHECK(incomplete_beta(n - k, k + 1, 0.7) == doctest::Approx(tail).epsilon(1e-10));
        }
    }
}

TEST_CASE("eval statistics: paired t test, p from tables") {
    // One degree of freedom is the Cauchy distribution, two have a closed form.
    const std::vector<double> zero2 = {0, 0}, zero3 = {0, 0, 0};
    const PairedTest one = paired_test(std::vector<double>{1, 3}, zero2);
    CHECK(one.difference.value == 2);
    CHECK(one.difference.standard_error == doctest::Approx(1));
    CHECK(one.t == doctest::Approx(2));
    CHECK(one.p == doctest::Approx(1 - 2 / std::numbers::pi * std::atan(2)));
    const PairedTest two = paired_test(std::vector<double>{1, 2, 6}, zero3);
    CHECK(two.p == doctest::Approx(1 - two.t / std::sqrt(2 + two.t * two.t)));
    // 97.5 % quantiles: 10 degrees 2.228139, 100 degrees 1.983972.
    for (const auto& [degrees, quantile] : {std::pair{10, 2.228139}, std::pair{100, 1.983972}}) {
        const double n = degrees + 1.0;
        std::vector<double> values(static_cast<std::size_t>(degrees + 1));
        for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i);
        const Estimate e = estimate_of(values);
        const double shift = quantile * e.standard_error - e.value;
        for (double& v : values) v += shift;
        const std::vector<double> zero(values.size(), 0.0);
        CAPTURE(n);
        CHECK(paired_test(values, zero).p == doctest::Approx(0.05).epsilon(1e-5));
    }
    const PairedTest same = paired_test(zero3, zero3);
    CHECK(same.p == 1);
    CHECK(same.t == 0);
    CHECK(paired_test(std::vector<double>{2, 2, 2}, zero3).p == 0);
    CHECK(paired_test(std::vector<double>{2}, std::vector<double>{0}).p == 1);
}

TEST_CASE("eval statistics: right and wrong answers by McNemar's exact test") {
    std::vector<double> a(20, 1.0), b(20, 1.0);
    for (int i = 0; i < 8; ++i) b[static_cast<std::size_t>(i)] = 0;
    for (int i = 18; i < 20; ++i) a[static_cast<std::size_t>(i)] = 0;
    const PairedTest test = paired_test(a, b);
    CHECK(test.binary);
    CHECK(test.only_a == 8);
    CHECK(test.only_b == 2);
    // 2 * (1 + 10 + 45) / 2^10
    CHECK(test.p == doctest::Approx(2 * 56 / 1024.0));
    CHECK(test.a.value == 0.9);
    CHECK(paired_test(a, a).p == 1);
}

TEST_CASE("eval statistics: estimates of fractions are exact") {
    std::vector<double> values(40, 0.0);
    for (std::size_t i = 0; i < 14; ++i) values[i * 2] = 1;
    CHECK(estimate_of(values).value == 0.35);
    CHECK(estimate_of(values).standard_error == doctest::Approx(std::sqrt(0.35 * 0.65 / 39)));
    CHECK(estimate_of(std::vector<double>{3}).standard_error == 0);
}
