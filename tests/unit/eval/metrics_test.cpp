// SPDX-License-Identifier: Apache-2.0
// Metrics against brute force in long double, identities and closed forms.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "eval/metrics.h"
#include "kernels/layout/rng.h"

using namespace thimble;
using namespace thimble::eval;

namespace {

std::vector<double> random_logits(std::uint64_t seed, std::size_t n, double spread) {
    std::vector<double> x(n);
    for (std::size_t i = 0; i < n; ++i) {
        const Philox4 r = philox(seed, i, 0);
        double sum = 0;
        for (const std::uint32_t word : r.v) sum += word / 4294967296.0 - 0.5;
        x[i] = static_cast<double>(static_cast<float>(spread * sum));
    }
    return x;
}

View view(std::vector<double>& x) {
    return {x.data(), DType::kF64, 1, static_cast<std::int64_t>(x.size()), 0};
}

struct Brute {
    std::vector<long double> log_p;
    explicit Brute(const std::vector<double>& x) {
        long double sum = 0;
        for (const double v : x) sum += std::exp(static_cast<long double>(v));
        for (const double v : x) log_p.push_back(v - std::log(sum));
    }
    [[nodiscard]] double kld_to(const Brute& q) const {
        long double sum = 0;
        for (std::size_t i = 0; i < log_p.size(); ++i)
            sum += std::exp(log_p[i]) * (log_p[i] - q.log_p[i]);
        return static_cast<double>(sum);
    }
};

}  // namespace

TEST_CASE("eval metrics: rows equal brute force in long double") {
    for (const std::size_t n : {1u, 2u, 7u, 8u, 9u, 1000u, 4099u}) {
        for (const double spread : {0.1, 5.0, 60.0}) {
            CAPTURE(n);
            CAPTURE(spread);
            std::vector<double> x = random_logits(n, n, spread);
            std::vector<double> ref = random_logits(n + 77, n, spread);
            const Brute p(ref), q(x);
            const auto target = static_cast<std::int32_t>(n / 2);
            const RowScore row = score_row(view(x), view(ref), target);
            const auto t = static_cast<std::size_t>(target);
            CHECK(row.nll == doctest::Approx(static_cast<double>(-q.log_p[t])).epsilon(1e-13));
            CHECK(row.reference_nll ==
                  doctest::Approx(static_cast<double>(-p.log_p[t])).epsilon(1e-13));
            CHECK(std::abs(row.kld - p.kld_to(q)) <= 1e-13 * (1 + spread));
            CHECK(row.top == std::max_element(x.begin(), x.end()) - x.begin());

            std::vector<float> x32(x.begin(), x.end()), ref32(ref.begin(), ref.end());
            const View narrow{x32.data(), DType::kF32, 1, static_cast<std::int64_t>(n), 0};
            const View narrow_ref{ref32.data(), DType::kF32, 1, static_cast<std::int64_t>(n), 0};
            CHECK(score_row(narrow, narrow_ref, target).kld == row.kld);
            CHECK(score_row(narrow, target).nll == row.nll);
        }
    }
}

TEST_CASE("eval metrics: identities") {
    std::vector<double> x = random_logits(3, 500, 20);
    std::vector<double> y = random_logits(4, 500, 20);
    CHECK(score_row(view(x), view(x), 3).kld == 0);
    CHECK(score_row(view(x), view(x), 3).same_top);
    CHECK(score_row(view(x), view(y), 3).kld > 0);

    // A constant added to every logit changes nothing but rounding.
    std::vector<double> shifted = x;
    for (double& v : shifted) v += 1024;
    CHECK(std::abs(score_row(view(shifted), view(x), 3).kld) < 1e-12);

    // Uniform against a point mass that keeps 1/2 on one of four tokens.
    std::vector<double> uniform(4, 0.0);
    std::vector<double> peaked = {std::log(3.0), 0, 0, 0};
    CHECK(score_row(view(uniform), 0).nll == doctest::Approx(std::log(4.0)));
    CHECK(score_row(view(uniform), view(peaked), 0).kld ==
          doctest::Approx(0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3.0)));
    CHECK(score_row(view(peaked), view(uniform), 0).kld ==
          doctest::Approx(0.25 * std::log(0.5) + 0.75 * std::log(1.5)));

    // Ties go to the lowest id; far logits vanish instead of overflowing.
    std::vector<double> tie = {-1e4, 5, 5, -1e4};
    CHECK(score_row(view(tie), 1).top == 1);
    CHECK(score_row(view(tie), 1).nll == doctest::Approx(std::log(2.0)));
}

TEST_CASE("eval metrics: non-finite logits are seen wherever they stand") {
    for (const std::size_t at : {0u, 5u, 16u, 20u}) {
        for (const double bad :
             {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
            std::vector<double> x = random_logits(9, 21, 4);
            x[at] = bad;
            CHECK_FALSE(std::isfinite(score_row(view(x), 7).nll));
        }
    }
}

TEST_CASE("eval metrics: sums give means, standard errors and percentiles") {
    const std::vector<double> nll = {1.0, 2.0, 4.0, 3.0, 2.5};
    const std::vector<double> base = {1.5, 2.0, 3.0, 3.5, 2.0};
    const std::vector<double> kld = {0.1, 0.5, 0.2, 0.0, 0.3};
    ScoreSums sums(5, true);
    for (std::size_t i = 0; i < 5; ++i) {
        RowScore row;
        row.nll = nll[i], row.reference_nll = base[i], row.kld = kld[i], row.same_top = i != 1;
        sums.add(row);
    }
    const auto mean = [](const std::vector<double>& v) {
        return std::accumulate(v.begin(), v.end(), 0.0) / static_cast<double>(v.size());
    };
    const auto cov = [&](const std::vector<double>& a, const std::vector<double>& b) {
        double sum = 0;
        for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - mean(a)) * (b[i] - mean(b));
        return sum / 4 / 5;
    };
    const PerplexityFigures p = sums.perplexity();
    const DivergenceFigures d = sums.divergence();
    const double ppl = std::exp(mean(nll)), ref = std::exp(mean(base));
    CHECK(p.tokens == 5);
    CHECK(p.perplexity.value == doctest::Approx(ppl));
    CHECK(p.perplexity.standard_error == doctest::Approx(ppl * std::sqrt(cov(nll, nll))));
    CHECK(d.reference_perplexity.value == doctest::Approx(ref));
    CHECK(d.kld.value == doctest::Approx(0.22));
    CHECK(d.kld.standard_error == doctest::Approx(std::sqrt(cov(kld, kld))));
    CHECK(d.kld_median == 0.2);
    CHECK(d.kld_max == 0.5);
    CHECK(d.kld_p99 == doctest::Approx(0.3 + 0.2 * 0.96));
    CHECK(d.same_top.value == doctest::Approx(0.8));
    CHECK(d.same_top.standard_error == doctest::Approx(std::sqrt(0.8 * 0.2 / 4)));
    CHECK(d.perplexity_ratio.value == doctest::Approx(ppl / ref));
    const double var_change =
        ppl * ppl * cov(nll, nll) + ref * ref * cov(base, base) - 2 * ppl * ref * cov(nll, base);
    CHECK(d.perplexity_change.value == doctest::Approx(ppl - ref));
    CHECK(d.perplexity_change.standard_error == doctest::Approx(std::sqrt(var_change)));
    double squares = 0;
    for (std::size_t i = 0; i < 5; ++i)
        squares += std::pow(std::exp(-nll[i]) - std::exp(-base[i]), 2);
    CHECK(d.rms_delta_p.value == doctest::Approx(std::sqrt(squares / 5)));
    CHECK(ScoreSums::charged_bytes(5, true) == 64);
    CHECK(ScoreSums::charged_bytes(5, false) == 0);
}

TEST_CASE("eval metrics: percentiles interpolate between neighbours") {
    const std::vector<double> v = {1, 2, 4, 8};
    CHECK(percentile(v, 0) == 1);
    CHECK(percentile(v, 0.5) == 3);
    CHECK(percentile(v, 1) == 8);
    CHECK(percentile(std::vector<double>{7}, 0.99) == 7);
}
