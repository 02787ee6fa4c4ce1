// SPDX-License-Identifier: Apache-2.0
// What every registered KV policy promises.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>

#include "core/error.h"
#include "core/ledger.h"
#include "kernels/layout/rng.h"
#include "kv/chain.h"
#include "kv/layer_store.h"
#include "tests/support/kv_harness.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr std::int64_t kContext = 700;

std::uint64_t ledger_kv() { return Ledger::process().current_bytes(Tier::kRam, Purpose::kKv); }

template <class Fn>
void for_each_policy(std::int64_t budget, Fn&& fn, std::size_t layers = 3) {
    for (const std::string& policy : policies_with_budget(budget, layers)) {
        CAPTURE(policy);
        fn(policy);
    }
}

KvNeeds needs_of(const std::string& policy) { return KvChain::parse(policy, "test").needs(); }
bool narrows(const std::string& policy) {  // loses channels whatever the budget
    return KvChain::parse(policy, "test").of(KvPolicy::kChannels) != nullptr;
}
bool merges(const std::string& policy) {
    return KvChain::parse(policy, "test").of(KvPolicy::kMerge) != nullptr;
}
bool edits(const std::string& policy) { return KvChain::parse(policy, "test").edits(); }

}  // namespace

TEST_CASE("KV policies: a budget of at least the length is the full cache, bit for bit") {
    for (const Device device : {Device::kCpu, Device::kRef}) {
        for (const std::string type : {"f32", "q8_0"}) {
            KvHarness full(kv_layers(50), kv_options("full", kContext, type), device);
            const SeqId a = full.open(1);
            full.feed(a, 300, 300);
            for_each_policy(300, [&](const std::string& policy) {
                if (narrows(policy)) return;
                KvHarness bounded(kv_layers(50), kv_options(policy, kContext, type), device);
                const SeqId b = bounded.open(1);
                bounded.feed(b, 270, 77);
                bounded.finish_prompt(b);
                bounded.feed(b, 30, 11);
                CHECK(bounded.rows(b) == full.rows(a));
            });
        }
    }
}

TEST_CASE("KV policies: chunks and threads do not change a bit") {
    for (const std::string type : {"f32", "f16", "q8_0"}) {
        for_each_policy(130, [&](const std::string& policy) {
            if (type == "q8_0" && narrows(policy)) return;
            KvHarness one(kv_layers(70), kv_options(policy, kContext, type));
            const SeqId a = one.open(2);
            one.feed(a, 210, 210);
            one.finish_prompt(a);
            one.feed(a, 20, 20);
            for (const auto& [chunk, threads] :
                 {std::pair(1, 1), std::pair(13, 3), std::pair(64, 1)}) {
                CAPTURE(chunk);
                KvHarness other(kv_layers(70), kv_options(policy, kContext, type), Device::kCpu,
                                threads);
                const SeqId b = other.open(2);
                other.feed(b, 210, chunk);
                other.finish_prompt(b);
                other.feed(b, 20, chunk);
                CHECK(one.rows(a) == other.rows(b));
            }
        });
    }
}

TEST_CASE("KV policies: a prompt that passes layer by layer gives the same rows and slots") {
    for_each_policy(90, [&](const std::string& policy) {
        const KvOptions options = kv_options(policy, kContext, "f16");
        KvHarness by_chunk(kv_layers(45), options), by_layer(kv_layers(45), options);
        if (!by_layer.engine().edits_by_layer()) return;
        const SeqId a = by_chunk.open(12), b = by_layer.open(12);
        by_chunk.feed(a, 333, 100);
        by_chunk.finish_prompt(a);
        by_layer.feed_by_layer(b, 333, 77);
        for (int layer = 0; layer < 3; ++layer) {
            for (int head = 0; head < 2; ++head)
                CHECK(by_chunk.engine().positions(a, layer, head) ==
                      by_layer.engine().positions(b, layer, head));
        }
        by_chunk.feed(a, 40, 40);
        by_layer.feed(b, 40, 7);
        CHECK(by_chunk.rows(a) == by_layer.rows(b));
        CHECK(by_chunk.engine().bytes() == by_layer.engine().bytes());
    });
}

TEST_CASE("KV policies: bytes are the ledger's and within the predicted ones at every step") {
    for (const Device device : {Device::kCpu, Device::kRef}) {
        for_each_policy(100, [&](const std::string& policy) {
            const auto layers = kv_layers(40);
            const KvOptions options = kv_options(policy, kContext, "f16");
            const std::uint64_t before = ledger_kv();
            {
                KvHarness harness(layers, options, device);
                const SeqId a = harness.open(3), b = harness.open(4);
                CHECK(ledger_kv() == before);
                const auto check = [&](const KvLoad& first, const KvLoad& second) {
                    const auto predicted = KvEngine::predict_bytes(layers, options, first, device) +
                                           KvEngine::predict_bytes(layers, options, second, device);
                    CHECK(ledger_kv() - before == harness.engine().bytes());
                    if (edits(policy) || needs_of(policy).window_rows > 0) {
                        CHECK(harness.engine().bytes() <= predicted);
                    } else {
                        CHECK(harness.engine().bytes() == predicted);
                    }
                };
                harness.feed_prompt(a, 240, 80);
                check({240, 240}, 0);
                for (std::int64_t n = 0; n < 80; n += 20) {
                    harness.feed(a, 20, 20);
                    check({260 + n, 240}, n);
                    harness.feed(b, 20, 9);
                    check({260 + n, 240}, n + 20);
                }
                harness.truncate(a, 0);
                check(0, 80);
                harness.engine().close(b);
                check(0, 0);
                harness.engine().close(a);
            }
            CHECK(ledger_kv() == before);
        });
    }
}

TEST_CASE("KV policies: the ledger's peak during a prompt is within the predicted bytes") {
    for_each_policy(64, [&](const std::string& policy) {
        const auto layers = kv_layers(40);
        const KvOptions options = kv_options(policy, 4000, "f16");
        KvHarness harness(layers, options);
        const SeqId seq = harness.open(3);
        const std::uint64_t before = ledger_kv();
        Ledger::process().reset_peaks();
        harness.feed_prompt(seq, 1500, 500);
        harness.feed(seq, 3, 1);
        CHECK(Ledger::process().peak_bytes(Tier::kRam, Purpose::kKv) - before <=
              KvEngine::predict_bytes(layers, options, {1503, 1500}, Device::kCpu));
    });
}

TEST_CASE("KV policies: memory stays at the budget, after prefill and at every decode step") {
    for_each_policy(
        96,
        [&](const std::string& policy) {
            const std::vector<AttentionSpec> layers{kv_layers(0)[0]};
            KvHarness harness(layers, kv_options(policy, 4000, "f32"));
            if (KvChain::parse(policy, "test").of(KvPolicy::kBlocks) != nullptr) return;
            const auto limit = harness.engine().read_tokens(0, 1000);
            if (limit == 0) return;  // keeps everything
            const bool grows = edits(policy) && !needs_of(policy).edits_decode;
            // The budget, twice the sinks, the tile being written and one tile to roll back over; a
            // head may hold more than another.
            const auto slots = static_cast<std::uint64_t>(limit) + 8 + 3 * ops::kAttentionTile;
            const std::uint64_t most = 2 * 2 * LaneMemory::committed_lane_bytes(slots * 32 * 4);
            const SeqId seq = harness.open(5);
            harness.feed_prompt(seq, 1000, 1000);
            CHECK(harness.engine().bytes() <= most);
            const std::uint64_t after_prefill = harness.engine().bytes();
            for (int i = 0; i < 200; ++i) {
                harness.feed(seq, 1, 1);
                if (!grows)
                    REQUIRE(harness.engine().bytes() <= after_prefill + 2 * 2 * 4096 + 2 * 2 * 512);
            }
            if (!edits(policy)) return;
            // All that it counts besides pages: slots of all heads.
            const std::int64_t all =
                harness.engine().slots(seq, 0, 0) + harness.engine().slots(seq, 0, 1);
            CHECK(all <= 2 * limit + (grows ? 400 : 0));
            if (merges(policy)) return;
            CHECK(all == 2 * limit + (grows ? 400 : 0));
        },
        1);
}

TEST_CASE("KV policies: later rows are dense attention over what each head still holds") {
    for_each_policy(70, [&](const std::string& policy) {
        if (!edits(policy) || merges(policy) || narrows(policy)) return;
        const auto layers = kv_layers(45);
        KvHarness harness(layers, kv_options(policy, kContext), Device::kRef);
        const SeqId seq = harness.open(21);
        harness.feed_prompt(seq, 260, 130);
        for (std::int64_t t = 260; t < 290; ++t) {
            std::vector<std::vector<Visible>> visible(layers.size());
            for (std::size_t layer = 0; layer < layers.size(); ++layer) {
                if (layers[layer].shape.window > 0) continue;
                for (int head = 0; head < 2; ++head) {
                    Visible one;
                    one.query_position = t;
                    for (const auto p :
                         harness.engine().positions(seq, static_cast<int>(layer), head))
                        one.keys.push_back(p);
                    one.keys.push_back(t);
                    one.positions = one.keys;
                    visible[layer].push_back(one);
                }
            }
            harness.feed(seq, 1, 1);
            for (std::size_t layer = 0; layer < layers.size(); ++layer) {
                if (visible[layer].empty()) continue;
                const auto expected = attend_in_double(layers[layer], 21, layer, t, visible[layer]);
                const auto& row = harness.rows(seq, layer).back();
                double worst = 0;
                for (std::size_t i = 0; i < row.size(); ++i)
                    worst = std::max(worst, std::abs(row[i] - expected[i]));
                CHECK(worst < 1e-12);
            }
        }
    });
}

TEST_CASE("KV policies: a fork goes on as its origin would, and shares whole tiles") {
    for_each_policy(90, [&](const std::string& policy) {
        const KvOptions options = kv_options(policy, kContext, "f16");
        KvHarness straight(kv_layers(45), options), forked(kv_layers(45), options);
        const SeqId a = straight.open(6), b = forked.open(6);
        straight.feed_prompt(a, 333, 333);
        forked.feed_prompt(b, 333, 100);
        const std::uint64_t before = forked.engine().bytes();
        const SeqId c = forked.fork(b), d = forked.fork(c);
        if (policy == "full") CHECK(forked.engine().bytes() < before + before);
        CHECK(ledger_kv() == straight.engine().bytes() + forked.engine().bytes());
        straight.feed(a, 100, 100);
        forked.feed(c, 100, 13);
        CHECK(forked.rows(c) == straight.rows(a));
        forked.engine().close(c);
        forked.feed(d, 100, 50);
        CHECK(forked.rows(d) == straight.rows(a));
        forked.feed(b, 100, 1);
        CHECK(forked.rows(b) == straight.rows(a));
        forked.engine().close(b);
        forked.engine().close(d);
        CHECK(ledger_kv() == straight.engine().bytes());
    });
}

TEST_CASE("KV policies: cut back and replay gives the same rows and bytes") {
    for_each_policy(90, [&](const std::string& policy) {
        const auto layers = kv_layers(45);
        const KvOptions options = kv_options(policy, kContext, "f16");
        KvHarness straight(layers, options), winding(layers, options);
        const SeqId a = straight.open(6), b = winding.open(6);
        straight.feed_prompt(a, 200, 200);
        straight.feed(a, 300, 300);
        winding.feed_prompt(b, 200, 33);
        CHECK(winding.engine().rollback_floor(b) <= 200);
        // A prompt's rows read everything, so what chooses blocks goes back to its end at most.
        const bool reads = KvChain::parse(policy, "test").of(KvPolicy::kBlocks) != nullptr;
        const std::int64_t prompt_floor = reads ? 200 : winding.engine().rollback_floor(b);
        if (needs_of(policy).prompt_sums) CHECK(prompt_floor == 200);
        if (needs_of(policy).edits_decode) {
            winding.feed(b, 10, 10);
            CHECK(winding.engine().rollback_floor(b) == 210);
            CHECK_THROWS_AS(winding.truncate(b, 205), Error);
        } else {
            std::int64_t tokens = 200;
            for (std::uint64_t turn = 0; tokens < 500; ++turn) {
                const auto forward = static_cast<std::int64_t>(philox(9, turn).v[0] % 100);
                const auto back = static_cast<std::int64_t>(philox(9, turn).v[1] % 120);
                winding.feed(b, std::min(forward, 500 - tokens), 33);
                tokens = std::min<std::int64_t>(500, tokens + forward);
                if (tokens == 500) break;
                const std::int64_t cut =
                    std::max({tokens - back, winding.engine().rollback_floor(b), prompt_floor});
                winding.truncate(b, cut);
                tokens = cut;
                CHECK(winding.engine().bytes() <=
                      KvEngine::predict_bytes(layers, options, {tokens, 200}, Device::kCpu));
            }
            CHECK(winding.rows(b) == straight.rows(a));
            if (winding.engine().rollback_floor(b) > 1)
                CHECK_THROWS_AS(winding.truncate(b, 1), Error);
        }
        winding.truncate(b, 0);
        winding.feed_prompt(b, 200, 100);
        winding.feed(b, 300, 50);
        CHECK(winding.rows(b) == straight.rows(a));
    });
}

TEST_CASE("KV policies: a second prompt is edited, too") {
    for_each_policy(80, [&](const std::string& policy) {
        if (!edits(policy)) return;
        const KvOptions options = kv_options(policy, kContext, "f16");
        KvHarness harness(kv_layers(45), options), other(kv_layers(45), options);
        const SeqId a = harness.open(4), b = other.open(4);
        for (const auto& [h, seq, chunk] :
             {std::tuple(&harness, a, 40), std::tuple(&other, b, 9)}) {
            h->feed_prompt(seq, 200, chunk);
            h->feed(seq, 20, chunk);
            h->engine().begin_prompt(seq);
            h->feed_prompt(seq, 150, chunk);
            h->feed(seq, 10, chunk);
        }
        CHECK(harness.rows(a) == other.rows(b));
        const bool grows = !needs_of(policy).edits_decode;
        std::int64_t all = 0;
        if (needs_of(policy).waits_for_layers) return;  // one layer may have another's share
        for (int head = 0; head < 2; ++head) all += harness.engine().slots(a, 0, head);
        const std::int64_t limit = harness.engine().read_tokens(0, 380);
        if (limit > 0) CHECK(all <= 2 * (limit + (grows ? 10 : 0)));
    });
}

TEST_CASE("KV policies: sequences do not see one another") {
    for_each_policy(80, [&](const std::string& policy) {
        const KvOptions options = kv_options(policy, kContext, "bf16");
        KvHarness mixed(kv_layers(45), options);
        const SeqId a = mixed.open(7), gone = mixed.open(99), b = mixed.open(8);
        mixed.feed(gone, 50, 50);
        for (int i = 0; i < 10; ++i) {
            mixed.feed(a, 30, 30);
            mixed.feed(b, 23, 11);
            if (i == 4) {
                mixed.engine().close(gone);
                mixed.finish_prompt(a), mixed.finish_prompt(b);
            }
        }
        for (const auto& [seq, seed, count] : {std::tuple{a, 7, 150}, std::tuple{b, 8, 115}}) {
            KvHarness alone(kv_layers(45), options);
            const SeqId c = alone.open(static_cast<std::uint64_t>(seed));
            alone.feed_prompt(c, count, count);
            alone.feed(c, count, count);
            CHECK(alone.rows(c) == mixed.rows(seq));
        }
        CHECK(mixed.open(1) == gone);  // the number is used again
    });
}
