// SPDX-License-Identifier: Apache-2.0
#include "decode/sampler.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "kernels/layout/rng.h"

using namespace thimble;

namespace {

std::vector<double> random_logits(std::int64_t vocab, std::uint64_t seed) {
    std::vector<double> logits;
    for (std::int64_t i = 0; i < vocab; ++i)
        logits.push_back(8.0 * unit_float(philox(seed, static_cast<std::uint64_t>(i)).v[0]) - 4.0);
    return logits;
}

template <class Real>
View row(std::vector<Real>& logits) {
    const auto n = static_cast<std::int64_t>(logits.size());
    return {logits.data(), sizeof(Real) == 8 ? DType::kF64 : DType::kF32, 1, n, n};
}

// The distribution that the filters leave, from a full sort.
std::vector<double> reference(const std::vector<double>& logits, const SamplerOptions& o) {
    std::vector<std::size_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
    if (o.top_k > 0) order.resize(std::min(order.size(), static_cast<std::size_t>(o.top_k)));
    double total = 0, sum = 0;
    for (const std::size_t i : order) total += std::exp(logits[i]);
    std::vector<std::size_t> kept;
    for (const std::size_t i : order) {
        if (o.top_p < 1 && !kept.empty() && sum >= o.top_p * total) break;
        sum += std::exp(logits[i]);
        kept.push_back(i);
    }
    std::erase_if(kept,
                  [&](std::size_t i) { return std::exp(logits[i] - logits[order[0]]) < o.min_p; });
    std::vector<double> p(logits.size());
    double norm = 0;
    for (const std::size_t i : kept) norm += p[i] = std::exp(logits[i] / o.temperature);
    for (double& x : p) x /= norm;
    return p;
}

}  // namespace

TEST_CASE("sampler: frequencies are those of the filtered distribution") {
    const SamplerOptions cases[] = {
        {.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0},
        {.temperature = 0.7, .top_k = 5, .top_p = 1, .min_p = 0},
        {.temperature = 1.5, .top_k = 0, .top_p = 0.6, .min_p = 0},
        {.temperature = 2, .top_k = 0, .top_p = 1, .min_p = 0.2},
        {.temperature = 0.8, .top_k = 20, .top_p = 0.9, .min_p = 0.05},
        {.temperature = 1, .top_k = 1000, .top_p = 0.95, .min_p = 0.3},
        {.temperature = 1, .top_k = 3, .top_p = 0, .min_p = 0},
    };
    constexpr int kDraws = 40000;
    for (const SamplerOptions& options : cases) {
        const std::vector<double> logits = random_logits(60, 11);
        const std::vector<double> p = reference(logits, options);
        Sampler sampler(options, 60, 3);
        std::vector<int> count(60);
        for (int draw = 0; draw < kDraws; ++draw) {
            std::vector<double> copy = logits;
            ++count[static_cast<std::size_t>(
                sampler.sample(row(copy), {}, static_cast<std::uint64_t>(draw)))];
        }
        for (std::size_t i = 0; i < p.size(); ++i) {
            CAPTURE(i);
            if (p[i] == 0) CHECK(count[i] == 0);
            const double sigma = std::sqrt(kDraws * p[i] * (1 - p[i]));
            CHECK(std::abs(count[i] - kDraws * p[i]) <= 5 * sigma + 1e-9);
        }
    }
}

TEST_CASE("sampler: top-k over a large vocabulary keeps exactly the k largest, lower ids first") {
    std::vector<float> logits(5000);
    for (std::size_t i = 0; i < logits.size(); ++i)
        logits[i] = static_cast<float>(philox(5, i).v[0] % 97);  // many ties
    std::vector<double> wide(logits.begin(), logits.end());
    const SamplerOptions options{.temperature = 1e9, .top_k = 70, .top_p = 1, .min_p = 0};
    const std::vector<double> p = reference(wide, options);
    Sampler sampler(options, 5000, 1);
    std::vector<bool> seen(5000);
    for (std::uint64_t draw = 0; draw < 3000; ++draw)
        seen[static_cast<std::size_t>(sampler.sample(row(logits), {}, draw))] = true;
    for (std::size_t i = 0; i < p.size(); ++i) CHECK(seen[i] == (p[i] > 0));
}

TEST_CASE("sampler: from the largest logits alone it chooses what it chooses from all") {
    constexpr std::int64_t kVocab = 300;
    for (const SamplerOptions& options : {
             SamplerOptions{},
             SamplerOptions{.temperature = 0, .top_k = 0},
             SamplerOptions{.temperature = 2, .top_k = 7, .top_p = 1, .min_p = 0},
             SamplerOptions{.temperature = 3, .top_k = 40, .top_p = 1, .min_p = 0.3},
             SamplerOptions{.temperature = 1.5, .top_k = 100, .top_p = 0.5, .min_p = 0},
             SamplerOptions{.temperature = 1, .top_k = 500, .top_p = 0.9, .min_p = 0.1},
         }) {
        Sampler sampler(options, kVocab, 21);
        const auto k = static_cast<std::size_t>(std::min(sampler.looks_at(), kVocab));
        REQUIRE(k > 0);
        for (std::uint64_t draw = 0; draw < 300; ++draw) {
            std::vector<float> logits;  // many of them equal, some minus infinity
            for (const double x : random_logits(kVocab, draw))
                logits.push_back(x < -3.8 ? -std::numeric_limits<float>::infinity()
                                          : static_cast<float>(std::round(4 * x) / 4));
            std::vector<std::int32_t> tokens(logits.size());
            std::iota(tokens.begin(), tokens.end(), 0);
            std::stable_sort(tokens.begin(), tokens.end(), [&](std::int32_t a, std::int32_t b) {
                return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
            });
            tokens.resize(k);
            std::vector<float> top;
            for (const std::int32_t t : tokens) top.push_back(logits[static_cast<std::size_t>(t)]);
            CHECK(sampler.sample_top(top, tokens, draw) == sampler.sample(row(logits), {}, draw));
        }
    }
    CHECK(Sampler({.top_k = 0}, kVocab, 0).looks_at() == 0);
    CHECK(Sampler({.temperature = 0, .repeat_penalty = 1.1}, kVocab, 0).looks_at() == 0);
}

TEST_CASE("sampler: temperature 0 takes the largest logit, the lowest id on ties") {
    std::vector<float> logits{1, 5, 2, 5, -1};
    Sampler sampler({.temperature = 0}, 5, 0);
    CHECK(sampler.sample(row(logits), {}, 0) == 1);
    CHECK(Sampler::bytes({.temperature = 0}, 262144) == 0);
}

TEST_CASE("sampler: the repeat penalty hits each recent token once and looks back so far only") {
    const std::vector<float> logits{4.0f, 3.0f, -1.0f, 2.9f};
    const std::vector<std::int32_t> recent{1, 0, 0, 0};
    Sampler sampler({.temperature = 0, .repeat_penalty = 1.35, .repeat_last = 3}, 4, 0);
    std::vector<float> copy = logits;
    CHECK(sampler.sample(row(copy), recent, 0) == 1);  // 4 / 1.35 < 3: divided once, not thrice
    CHECK(copy[0] == doctest::Approx(4.0 / 1.35));
    CHECK(copy[1] == 3.0f);
    Sampler longer({.temperature = 0, .repeat_penalty = 1.35, .repeat_last = 4}, 4, 0);
    copy = logits;
    CHECK(longer.sample(row(copy), recent, 0) == 0);  // 2.963 against 2.222 and 2.9
}

TEST_CASE("sampler: equal seed and draw give equal choices, others do not") {
    std::vector<double> logits = random_logits(200, 2);
    const SamplerOptions options{.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0};
    int differ_seed = 0, differ_draw = 0;
    for (std::uint64_t draw = 0; draw < 100; ++draw) {
        Sampler a(options, 200, 7), b(options, 200, 7), c(options, 200, 8);
        const auto x = a.sample(row(logits), {}, draw);
        CHECK(x == b.sample(row(logits), {}, draw));
        differ_seed += x != c.sample(row(logits), {}, draw);
        differ_draw += x != b.sample(row(logits), {}, draw + 1);
    }
    CHECK(differ_seed > 80);
    CHECK(differ_draw > 80);
}

TEST_CASE("sampler: logits that are not numbers are an error") {
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
        std::vector<float> logits{1, bad, 2};
        Sampler sampler({}, 3, 0);
        CHECK_THROWS_AS((void)sampler.sample(row(logits), {}, 0), Error);
        CHECK_THROWS_AS((void)sampler.sample_top(std::array{bad, 2.0f}, std::array{1, 2}, 0),
                        Error);
    }
    std::vector<float> none(3, -std::numeric_limits<float>::infinity());
    Sampler sampler({}, 3, 0);
    CHECK_THROWS_AS((void)sampler.sample(row(none), {}, 0), Error);
    CHECK_THROWS_AS((void)sampler.sample_top(none, std::array{0, 1, 2}, 0), Error);
    none[2] = -1e30f;
    CHECK(sampler.sample(row(none), {}, 0) == 2);
}

TEST_CASE("sampler: predicted bytes are the ledger's") {
    for (const std::int64_t top_k : {0, 1, 40, 5000}) {
        const SamplerOptions options{.top_k = top_k};
        const std::uint64_t before = Ledger::process().current_bytes(Tier::kRam);
        Sampler sampler(options, 3000, 0);
        CHECK(Ledger::process().current_bytes(Tier::kRam) - before ==
              Sampler::bytes(options, 3000));
    }
}
