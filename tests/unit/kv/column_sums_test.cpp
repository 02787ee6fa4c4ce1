// SPDX-License-Identifier: Apache-2.0
// Policies that sum what each key receives, against a cache in double that is kept as lists.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/layout/rng.h"
#include "kv/chain.h"
#include "tests/support/kv_brute_force.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr std::int64_t kPrompt = 90, kAll = 120;

// Keyformer's noise, -ln(-ln u).
double gumbel(std::uint64_t seed, int layer, int head, std::int64_t row, std::int64_t key) {
    const Philox4 r =
        philox(seed, static_cast<std::uint64_t>(row) << 32 | static_cast<std::uint64_t>(key / 4),
               static_cast<std::uint64_t>(layer) << 32 | static_cast<std::uint64_t>(head));
    const double u = static_cast<double>(r.v[key % 4] >> 8) * 0x1p-24;
    return -std::log(-std::log(std::clamp(u, 0x1p-24, 1 - 0x1p-24)));
}

struct Rule {
    std::int64_t budget = 30, recent = 15;
    double noise = 0, tau = 1, tau_end = 1, over = 1;
    std::uint64_t seed = 0;
    bool normalise = false;
};

// One K/V head's cache as the papers write it down: positions and what each has received.
class ListCache {
  public:
    ListCache(const FullAttention& full, const Rule& rule, int layer, int kv_head)
        : full_(full), rule_(rule), layer_(layer), kv_head_(kv_head) {
        for (std::int64_t row = 0; row < kPrompt; ++row) {
            sums_[row] = 0;
            add(row, rule.tau);
        }
        drop(kPrompt);
    }
    void step(std::int64_t row) {
        sums_[row] = 0;
        const double after = static_cast<double>(row - kPrompt + 1);
        add(row, rule_.tau + (rule_.tau_end - rule_.tau) * std::min(after / rule_.over, 1.0));
        drop(row + 1);
    }
    [[nodiscard]] std::vector<std::int32_t> kept() const {
        std::vector<std::int32_t> out;
        for (const auto& [p, sum] : sums_) out.push_back(static_cast<std::int32_t>(p));
        return out;
    }
    [[nodiscard]] double margin() const { return margin_; }

  private:
    void add(std::int64_t row, double tau) {
        for (int g = 0; g < full_.group(); ++g) {
            const int head = kv_head_ * full_.group() + g;
            Row logits;
            for (const auto& [p, sum] : sums_) {
                const double z =
                    rule_.noise > 0 ? rule_.noise * gumbel(rule_.seed, layer_, head, row, p) : 0;
                logits.push_back((full_.logit(head, row, p) + z) / tau);
            }
            const Row p = softmax(logits);
            std::size_t i = 0;
            for (auto& [position, sum] : sums_) sum += p[i++] / full_.group();
        }
    }
    void drop(std::int64_t seen) {
        std::map<std::int64_t, double> scores = sums_;
        for (auto& [p, score] : scores) {
            if (rule_.normalise) score /= static_cast<double>(seen - p);
        }
        while (std::ssize(sums_) > rule_.budget) {
            auto least = scores.end();
            double second = INFINITY, most = 0;
            for (auto it = scores.begin(); it != scores.end(); ++it) {
                most = std::max(most, it->second);
                if (it->first >= seen - rule_.recent) continue;
                if (least == scores.end() || it->second < least->second) {
                    if (least != scores.end()) second = least->second;
                    least = it;
                } else {
                    second = std::min(second, it->second);
                }
            }
            // Of all that go at once only the border counts.
            if (std::ssize(sums_) == rule_.budget + 1)
                margin_ = std::min(margin_, (second - least->second) / most);
            sums_.erase(least->first);
            scores.erase(least);
        }
    }

    const FullAttention& full_;
    Rule rule_;
    int layer_, kv_head_;
    std::map<std::int64_t, double> sums_;
    double margin_ = 1;
};

void check_against_lists(const std::string& policy, const Rule& rule) {
    CAPTURE(policy);
    const auto layers = kv_layers(20);
    KvHarness harness(layers, kv_options(policy, 400, "f32"));
    const SeqId seq = harness.open(40);
    harness.feed_prompt(seq, kPrompt, 23);
    for (const int layer : {0, 2}) {
        const FullAttention full(layers[static_cast<std::size_t>(layer)], 40,
                                 static_cast<std::size_t>(layer), kAll);
        for (int head = 0; head < 2; ++head) {
            const ListCache cache(full, rule, layer, head);
            REQUIRE(cache.margin() > 2e-7);
            CHECK(kept_positions(harness, seq, layer, head) == cache.kept());
        }
    }
    harness.feed(seq, kAll - kPrompt, 7);
    for (const int layer : {0, 2}) {
        const FullAttention full(layers[static_cast<std::size_t>(layer)], 40,
                                 static_cast<std::size_t>(layer), kAll);
        for (int head = 0; head < 2; ++head) {
            ListCache cache(full, rule, layer, head);
            for (std::int64_t row = kPrompt; row < kAll; ++row) cache.step(row);
            REQUIRE(cache.margin() > 2e-7);
            CHECK(kept_positions(harness, seq, layer, head) == cache.kept());
        }
    }
}

}  // namespace

TEST_CASE(
    "h2o: keeps what a list-based cache in double keeps, in the prompt and after each token") {
    check_against_lists("h2o:budget=30", {});
    check_against_lists("h2o:budget=41,recent=0", {.budget = 41, .recent = 0});
    check_against_lists("h2o:budget=30,normalise=true", {.normalise = true});
    check_against_lists("h2o:budget=20,recent=1", {.budget = 20, .recent = 20});
}

TEST_CASE("keyformer: keeps what the same noise and temperature keep in double") {
    check_against_lists("keyformer:budget=30,recent=0.5,seed=7,tokens=10",
                        {.noise = 1, .tau_end = 2, .over = 10, .seed = 7});
    check_against_lists(
        "keyformer:budget=30,recent=0.5,seed=8,noise=0.25,tau=0.7,tau_end=3,tokens=50",
        {.noise = 0.25, .tau = 0.7, .tau_end = 3, .over = 50, .seed = 8});
}

TEST_CASE("keyformer: without noise and with temperature 1 it is h2o, bit for bit") {
    const auto layers = kv_layers(20);
    KvHarness a(layers, kv_options("keyformer:budget=33,recent=0.5,noise=0,tau_end=1", 400));
    KvHarness b(layers, kv_options("h2o:budget=33,recent=0.5", 400));
    KvHarness c(layers, kv_options("keyformer:budget=33,recent=0.5,tau_end=1", 400));
    const SeqId i = a.open(2), j = b.open(2), k = c.open(2);
    for (const auto& [harness, seq] : {std::pair(&a, i), std::pair(&b, j), std::pair(&c, k)}) {
        harness->feed_prompt(seq, 200, 64);
        harness->feed(seq, 40, 40);
    }
    CHECK(a.rows(i) == b.rows(j));
    CHECK(c.rows(k) != b.rows(j));  // noise does something
}

TEST_CASE("keyformer: noise lifts no key above another on average") {
    // Equal logits: each of n keys receives 1 / n of a row in the mean over many rows.
    const auto policy = KvChain::parse_link("keyformer:budget=5,tau_end=1,seed=11", "test");
    constexpr std::int64_t kKeys = 8, kRows = 100000, kAtOnce = 1000;
    std::vector<std::int32_t> keys(kKeys);
    for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = static_cast<std::int32_t>(3 * i);
    Team team(1);
    Workspace workspace;
    const Exec exec{.team = &team, .workspace = &workspace};
    std::vector<float> sums(kKeys);
    for (std::int64_t first = 0; first < kRows; first += kAtOnce) {
        std::vector<std::int64_t> positions;
        for (std::int64_t r = 0; r < kAtOnce; ++r) positions.push_back(first + r);
        std::vector<float> logits(static_cast<std::size_t>(kAtOnce * kKeys), 1.5f);
        policy->accumulate(exec,
                           {.layer = 1,
                            .kv_head = 0,
                            .group = 1,
                            .positions = positions,
                            .keys = keys,
                            .logits = {logits.data(), DType::kF32, kAtOnce, kKeys, kKeys},
                            .prompt = true},
                           sums);
    }
    // A share lies in [0, 1], so its variance is at most mean * (1 - mean); five standard errors.
    const double mean = 1.0 / kKeys;
    const double error = std::sqrt(mean * (1 - mean) / static_cast<double>(kRows));
    for (const float sum : sums)
        CHECK(std::abs(static_cast<double>(sum) / kRows - mean) < 5 * error);
}

TEST_CASE("keyformer: the temperature rises from the first token of an answer to its last step") {
    const auto policy =
        KvChain::parse_link("keyformer:budget=5,noise=0,tau=0.5,tau_end=2.5,tokens=4", "test");
    const std::vector<std::int32_t> keys = {0, 1, 2};
    Team team(1);
    Workspace workspace;
    const Exec exec{.team = &team, .workspace = &workspace};
    for (const auto& [position, tau] :
         {std::pair(6, 0.5), {10, 1.0}, {11, 1.5}, {12, 2.0}, {13, 2.5}, {40, 2.5}}) {
        CAPTURE(position);
        const std::vector<std::int64_t> positions = {position};
        std::vector<float> logits = {0.25f, -1.0f, 2.0f}, sums(3);
        const std::vector<double> expected = softmax({0.25 / tau, -1.0 / tau, 2.0 / tau});
        policy->accumulate(exec,
                           {.group = 1,
                            .positions = positions,
                            .keys = keys,
                            .logits = {logits.data(), DType::kF32, 1, 3, 3},
                            .prompt = position < 10,
                            .prompt_tokens = 10},
                           sums);
        for (std::size_t i = 0; i < 3; ++i)
            CHECK(static_cast<double>(sums[i]) == doctest::Approx(expected[i]).epsilon(1e-6));
    }
}
