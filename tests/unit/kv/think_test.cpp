// SPDX-License-Identifier: Apache-2.0
// ThinK against dense attention in double with the channels set to zero.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "kv/chain.h"
#include "tests/support/kv_brute_force.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr std::int64_t kTokens = 130, kAll = 150;

// The channels that go, from mean squares over window, group and kept keys.
std::vector<int> pruned(const FullAttention& full, int kv_head, std::int64_t window,
                        const std::vector<std::int32_t>& kept, std::size_t count) {
    const std::size_t dim = full.key(0, 0).size();
    Row score(dim);
    for (std::size_t c = 0; c < dim; ++c) {
        double queries = 0, keys = 0;
        for (int g = 0; g < full.group(); ++g) {
            for (std::int64_t p = kTokens - window; p < kTokens; ++p)
                queries += std::pow(full.query(kv_head * full.group() + g, p)[c], 2);
        }
        for (const auto p : kept) keys += std::pow(full.key(kv_head, p)[c], 2);
        score[c] = queries * keys;
    }
    std::vector<int> order(dim);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int a, int b) {
        return score[static_cast<std::size_t>(a)] < score[static_cast<std::size_t>(b)];
    });
    REQUIRE(score[static_cast<std::size_t>(order[count])] >
            1.00001 * score[static_cast<std::size_t>(order[count - 1])]);
    order.resize(count);
    return order;
}

// One row's output for one query head over these keys, old ones without some channels.
Row attend(const FullAttention& full, const AttentionSpec& spec, int head, std::int64_t row,
           const std::vector<std::int32_t>& keys, std::int64_t old,
           const std::vector<int>& without) {
    const int kv_head = head / full.group();
    Row logits;
    for (const auto p : keys) {
        Row key = full.key(kv_head, p);
        if (p < old) {
            for (const int c : without) key[static_cast<std::size_t>(c)] = 0;
        }
        const double x = spec.scale * dot(full.query(head, row), key);
        logits.push_back(spec.softcap > 0 ? spec.softcap * std::tanh(x / spec.softcap) : x);
    }
    const Row p = softmax(logits);
    Row out(full.value(0, 0).size());
    for (std::size_t j = 0; j < keys.size(); ++j)
        for (std::size_t c = 0; c < out.size(); ++c)
            out[c] += p[j] * full.value(kv_head, keys[j])[c];
    return out;
}

}  // namespace

TEST_CASE("think: rows after the prompt are dense attention without the pruned key channels") {
    auto layers = kv_layers(25);
    for (auto& spec : layers) spec.shape.head_dim = 64;
    for (const auto& [policy, window, recent, going] :
         {std::tuple{"think:ratio=0.5,window=32", 32, 32, 32},
          std::tuple{"think:ratio=0.4,window=9,recent=0", 9, 0, 16},  // 39 channels: 48 stay
          std::tuple{"think:ratio=0.75,window=20,recent=50", 20, 50, 48},
          std::tuple{"snapkv:window=16,budget=60+think:ratio=0.5,recent=20", 32, 20, 32}}) {
        CAPTURE(policy);
        KvHarness harness(layers, kv_options(policy, 400), Device::kRef);
        const SeqId seq = harness.open(6);
        harness.feed_prompt(seq, kTokens, 50);
        std::vector<std::vector<std::vector<std::int32_t>>> kept(3);
        for (const int layer : {0, 2}) {
            for (int head = 0; head < 2; ++head)
                kept[static_cast<std::size_t>(layer)].push_back(
                    kept_positions(harness, seq, layer, head));
        }
        harness.feed(seq, kAll - kTokens, 6);
        for (const int layer : {0, 2}) {
            const auto i = static_cast<std::size_t>(layer);
            const FullAttention full(layers[i], 6, i, kAll);
            for (int head = 0; head < 6; ++head) {
                std::vector<std::int32_t> keys = kept[i][static_cast<std::size_t>(head / 3)];
                const auto without =
                    pruned(full, head / 3, window, keys, static_cast<std::size_t>(going));
                double worst = 0;
                for (std::int64_t row = kTokens; row < kAll; ++row) {
                    keys.push_back(static_cast<std::int32_t>(row));
                    const Row expected =
                        attend(full, layers[i], head, row, keys, kTokens - recent, without);
                    const auto& got = harness.rows(seq, i)[static_cast<std::size_t>(row)];
                    for (std::size_t c = 0; c < 64; ++c)
                        worst = std::max(
                            worst,
                            std::abs(expected[c] - got[static_cast<std::size_t>(head) * 64 + c]));
                }
                CHECK(worst < 1e-12);
            }
        }
    }
}

TEST_CASE("think: channels stay in sixteens, never fewer than the ratio leaves") {
    const auto channels = [](const std::string& ratio, std::int64_t dim) {
        return KvChain::parse_link("think:ratio=" + ratio, "test")->key_channels(dim);
    };
    CHECK(channels("0", 64) == 64);
    CHECK(channels("0.2", 64) == 64);
    CHECK(channels("0.25", 64) == 48);
    CHECK(channels("0.4", 64) == 48);
    CHECK(channels("0.4", 128) == 80);
    CHECK(channels("0.5", 128) == 64);
    CHECK(channels("0.95", 256) == 16);
    CHECK(channels("0.5", 24) == 16);
    CHECK(channels("0.1", 20) == 20);
}

TEST_CASE("think: nothing pruned is the full cache bit for bit, and narrow keys take less memory") {
    auto layers = kv_layers(25);
    for (auto& spec : layers) spec.shape.head_dim = 64;
    KvHarness full(layers, kv_options("full", 3000, "f16"));
    KvHarness none(layers, kv_options("think:ratio=0.2", 3000, "f16"));
    KvHarness half(layers, kv_options("think:ratio=0.5,recent=0", 3000, "f16"));
    const SeqId a = full.open(1), b = none.open(1), c = half.open(1);
    for (const auto& [harness, seq] :
         {std::pair(&full, a), std::pair(&none, b), std::pair(&half, c)}) {
        harness->feed_prompt(seq, 2048, 512);
        harness->feed(seq, 20, 20);
    }
    CHECK(full.rows(a) == none.rows(b));
    CHECK(full.rows(a) != half.rows(c));
    // Two layers of two heads: 2048 keys of 64 F16 lose half, but for pages and positions.
    const auto saved = static_cast<std::int64_t>(full.engine().bytes() - half.engine().bytes());
    CHECK(saved > 2 * 2 * (2048 * 64 - 4 * 4096 - 2 * 4 * 2048));
    CHECK_THROWS_AS(KvHarness(layers, kv_options("think", 100, "q8_0")), Error);
    CHECK_THROWS_AS((void)KvChain::parse("elastic+think", "test"), Error);
}

TEST_CASE("think: the plan counts the channels that keys lose, and is no less than what is held") {
    const std::vector<AttentionSpec> layers(24, kv_layers(0)[0]);
    const KvOptions narrow = kv_options("think:ratio=0.5,recent=32", 1100);
    KvHarness harness(layers, narrow);
    const SeqId seq = harness.open(3);
    harness.feed_prompt(seq, 1024, 256);
    const auto plan = [&](const KvOptions& options) {
        return KvEngine::predict_bytes(layers, options, 1024, Device::kCpu);
    };
    CHECK(harness.engine().bytes() <= plan(narrow));
    // A quarter of each layer, but for whole keys and pages; the plan has one layer's edit besides.
    const std::uint64_t full = plan(kv_options("full", 1100));
    CHECK(harness.engine().bytes() < full * 85 / 100);
    CHECK(plan(narrow) < harness.engine().bytes() + full / 4);
}
