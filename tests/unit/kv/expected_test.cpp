// SPDX-License-Identifier: Apache-2.0
// Expected Attention against its formula in double.
#include <doctest/doctest.h>

#include <cmath>

#include "kernels/layout/rng.h"
#include "tests/support/kv_brute_force.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr std::int64_t kTokens = 140;
constexpr std::int64_t kSinks = 4;

struct Normal {
    Row mean;
    std::vector<Row> covariance;
};

// Of the prompt's queries before rotation, then turned by the mean rotation matrix, whose columns
// are the mean rotations of the unit vectors.
Normal later_queries(const AttentionSpec& spec, const FullAttention& full, int head,
                     std::int64_t future) {
    const auto dim = static_cast<std::size_t>(spec.shape.head_dim);
    std::vector<Row> queries;
    for (std::int64_t p = kSinks; p < kTokens; ++p) queries.push_back(full.raw_query(head, p));
    const auto n = static_cast<double>(queries.size());
    Row mean(dim);
    for (const Row& q : queries)
        for (std::size_t i = 0; i < dim; ++i) mean[i] += q[i] / n;
    std::vector<Row> spread(dim, Row(dim));
    for (const Row& q : queries)
        for (std::size_t i = 0; i < dim; ++i)
            for (std::size_t j = 0; j < dim; ++j)
                spread[i][j] += (q[i] - mean[i]) * (q[j] - mean[j]) / n;
    std::vector<Row> turn(dim, Row(dim));
    for (std::size_t i = 0; i < dim; ++i) {
        for (std::int64_t p = kTokens; p < kTokens + future; ++p) {
            Row unit(dim);
            unit[i] = 1;
            rotate_in_double(spec.rope, static_cast<double>(p), unit.data());
            for (std::size_t r = 0; r < dim; ++r)
                turn[r][i] += unit[r] / static_cast<double>(future);
        }
    }
    Normal out{Row(dim), std::vector<Row>(dim, Row(dim))};
    for (std::size_t i = 0; i < dim; ++i) {
        out.mean[i] = dot(turn[i], mean);
        for (std::size_t j = 0; j < dim; ++j)
            for (std::size_t a = 0; a < dim; ++a)
                out.covariance[i][j] += turn[i][a] * dot(spread[a], turn[j]);
    }
    return out;
}

double quadratic(const Normal& q, const Row& key) {
    double sum = 0;
    for (std::size_t i = 0; i < key.size(); ++i) sum += key[i] * dot(q.covariance[i], key);
    return sum;
}

struct Terms {
    bool covariance = true, norms = true;
    double epsilon = 0;
};

Row expected_scores(const AttentionSpec& spec, const FullAttention& full, int kv_head,
                    std::int64_t future, const Terms& terms) {
    Row scores(static_cast<std::size_t>(kTokens));
    for (int g = 0; g < full.group(); ++g) {
        const Normal q = later_queries(spec, full, kv_head * full.group() + g, future);
        Row logits;
        for (std::int64_t j = kSinks; j < kTokens; ++j) {
            const Row& key = full.key(kv_head, j);
            logits.push_back(
                spec.scale * dot(q.mean, key) +
                (terms.covariance ? spec.scale * spec.scale / 2 * quadratic(q, key) : 0));
        }
        const Row p = softmax(logits);
        for (std::size_t j = 0; j < p.size(); ++j)
            scores[j + static_cast<std::size_t>(kSinks)] += p[j] / full.group();
    }
    for (std::int64_t j = 0; j < kTokens; ++j) {
        const Row& v = full.value(kv_head, j);
        auto& score = scores[static_cast<std::size_t>(j)];
        score += terms.epsilon;
        if (terms.norms) score *= std::sqrt(dot(v, v));
    }
    return scores;
}

}  // namespace

TEST_CASE("expected: keeps the keys with the largest expected weights, by the formula in double") {
    auto layers = kv_layers(30);
    layers.push_back(layers[0]);  // partly rotated halves
    layers[3].rope.style = ops::RopeStyle::kHalves;
    layers[3].rope.dims = 20;
    layers[2].softcap = 0;
    for (const auto& [options, future, terms] :
         {std::tuple{"future=512", 512, Terms{}},
          std::tuple{"future=3,epsilon=0.02", 3, Terms{.epsilon = 0.02}},
          std::tuple{"future=40,covariance=false,value_norms=false", 40,
                     Terms{.covariance = false, .norms = false}}}) {
        CAPTURE(options);
        for (const int layer : {0, 2, 3}) {
            CAPTURE(layer);
            const auto i = static_cast<std::size_t>(layer);
            const FullAttention full(layers[i], 17, i, kTokens);
            const Row scores[] = {expected_scores(layers[i], full, 0, future, terms),
                                  expected_scores(layers[i], full, 1, future, terms)};
            for (const auto& [device, budget] :
                 {std::pair(Device::kCpu, 10), std::pair(Device::kCpu, 50),
                  std::pair(Device::kRef, 90), std::pair(Device::kCpu, 130)}) {
                KvHarness harness(
                    layers,
                    kv_options("expected:budget=" + std::to_string(budget) + "," + options, 400,
                               "f32"),
                    device);
                const SeqId seq = harness.open(17);
                harness.feed_prompt(seq, kTokens, 33);
                for (int head = 0; head < 2; ++head) {
                    double margin = 0;
                    const auto best = best_positions(scores[head], kSinks, 0, budget, margin);
                    REQUIRE(margin > 2e-6);
                    CHECK(kept_positions(harness, seq, layer, head) == best);
                }
            }
        }
    }
}

TEST_CASE("expected: the formula's weight is the mean over drawn queries") {
    // Mean of exp(s q.k) over q = mean + sum of sqrt-covariance * gaussians, by Cholesky.
    const auto layers = kv_layers(0);
    const AttentionSpec& spec = layers[0];
    const FullAttention full(spec, 23, 0, kTokens);
    const Normal q = later_queries(spec, full, 1, 64);
    const std::size_t dim = q.mean.size();
    std::vector<Row> lower(dim, Row(dim));
    for (std::size_t i = 0; i < dim; ++i) {
        for (std::size_t j = 0; j <= i; ++j) {
            double x = q.covariance[i][j];
            for (std::size_t a = 0; a < j; ++a) x -= lower[i][a] * lower[j][a];
            lower[i][j] = i == j ? std::sqrt(x) : x / lower[j][j];
        }
    }
    const Row& key = full.key(0, 60);
    Row of_key(dim);  // L' k
    for (std::size_t i = 0; i < dim; ++i)
        for (std::size_t j = 0; j <= i; ++j) of_key[j] += lower[i][j] * key[i];
    constexpr int kDraws = 100000;
    double sum = 0, squares = 0;
    for (std::uint64_t n = 0; n < kDraws; ++n) {
        double logit = dot(q.mean, key);
        for (std::size_t j = 0; j < dim; ++j) {
            const Philox4 r = philox(3, n * dim + j);
            const double u = (static_cast<double>(r.v[0]) + 0.5) / 4294967296.0;
            const double angle = 6.283185307179586 * static_cast<double>(r.v[1]) / 4294967296.0;
            logit += of_key[j] * std::sqrt(-2 * std::log(u)) * std::cos(angle);
        }
        const double weight = std::exp(spec.scale * logit);
        sum += weight, squares += weight * weight;
    }
    const double mean = sum / kDraws;
    const double error = std::sqrt((squares / kDraws - mean * mean) / kDraws);
    const double formula =
        std::exp(spec.scale * dot(q.mean, key) + spec.scale * spec.scale / 2 * quadratic(q, key));
    CHECK(std::abs(mean - formula) < 5 * error);
    CHECK(error < 0.02 * mean);
}
