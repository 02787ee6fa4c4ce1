// SPDX-License-Identifier: Apache-2.0
// What every registered KV policy promises.
#include <doctest/doctest.h>

#include <string>

#include "core/error.h"
#include "core/ledger.h"
#include "kernels/layout/rng.h"
#include "kv/layer_store.h"
#include "tests/support/kv_harness.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr std::int64_t kContext = 700;

std::uint64_t ledger_kv() { return Ledger::process().current_bytes(Tier::kRam, Purpose::kKv); }

template <class Fn>
void for_each_policy(std::int64_t budget, Fn&& fn) {
    for (const auto& type : kv_policies().items()) {
        const std::string policy = with_budget(*type, budget);
        CAPTURE(policy);
        fn(policy);
    }
}

}  // namespace

TEST_CASE("KV policies: a budget of at least the length is the full cache, bit for bit") {
    for (const Device device : {Device::kCpu, Device::kRef}) {
        for (const std::string type : {"f32", "q8_0"}) {
            KvHarness full(kv_layers(50), kv_options("full", kContext, type), device);
            const SeqId a = full.open(1);
            full.feed(a, 300, 300);
            for_each_policy(300, [&](const std::string& policy) {
                KvHarness bounded(kv_layers(50), kv_options(policy, kContext, type), device);
                const SeqId b = bounded.open(1);
                bounded.feed(b, 300, 77);
                CHECK(bounded.rows(b) == full.rows(a));
            });
        }
    }
}

TEST_CASE("KV policies: chunks and threads do not change a bit") {
    for (const std::string type : {"f32", "f16", "q8_0"}) {
        for_each_policy(130, [&](const std::string& policy) {
            KvHarness one(kv_layers(70), kv_options(policy, kContext, type));
            const SeqId a = one.open(2);
            one.feed(a, 450, 450);
            for (const std::int64_t chunk : {1, 13, 64, 200}) {
                CAPTURE(chunk);
                KvHarness other(kv_layers(70), kv_options(policy, kContext, type), Device::kCpu, 3);
                const SeqId b = other.open(2);
                other.feed(b, 450, chunk);
                CHECK(one.rows(a) == other.rows(b));
            }
        });
    }
}

TEST_CASE("KV policies: bytes are the ledger's and the predicted ones after every step") {
    for (const Device device : {Device::kCpu, Device::kRef}) {
        for_each_policy(100, [&](const std::string& policy) {
            const auto layers = kv_layers(40);
            const KvOptions options = kv_options(policy, kContext, "f16");
            const std::uint64_t before = ledger_kv();
            {
                KvHarness harness(layers, options, device);
                const SeqId a = harness.open(3), b = harness.open(4);
                CHECK(ledger_kv() == before);
                const auto check = [&](std::int64_t first, std::int64_t second) {
                    const auto predicted = KvEngine::predict_bytes(layers, options, first, device) +
                                           KvEngine::predict_bytes(layers, options, second, device);
                    CHECK(harness.engine().bytes() == predicted);
                    CHECK(ledger_kv() - before == predicted);
                };
                for (std::int64_t n = 0; n < 400; n += 80) {
                    harness.feed(a, 80, 80);
                    check(n + 80, n);
                    harness.feed(b, 80, 9);
                    check(n + 80, n + 80);
                }
                harness.truncate(a, 0);
                check(0, 400);
                harness.engine().close(b);
                check(0, 0);
                harness.engine().close(a);
            }
            CHECK(ledger_kv() == before);
        });
    }
}

TEST_CASE("KV policies: memory stays at the budget, after prefill and at every decode step") {
    const ModelInfo model{.layers = {kv_layers(0)[0].shape}, .context_tokens = 4000};
    for_each_policy(96, [&](const std::string& policy) {
        const auto limit = make_kv_policy(policy, "test")->budget_tokens(model, 0);
        if (limit == 0) return;  // keeps everything
        const std::vector<AttentionSpec> layers{kv_layers(0)[0]};
        KvHarness harness(layers, kv_options(policy, 4000, "f32"));
        // The budget, twice the sinks, the tile being written and one tile to roll back over.
        const auto slots = static_cast<std::uint64_t>(limit) + 8 + 3 * ops::kAttentionTile;
        const std::uint64_t most = 2 * 2 * LaneMemory::committed_lane_bytes(slots * 32 * 4);
        const SeqId seq = harness.open(5);
        harness.feed(seq, 1000, 1000);
        CHECK(harness.engine().bytes() <= most);
        const std::uint64_t after_prefill = harness.engine().bytes();
        for (int i = 0; i < 200; ++i) {
            harness.feed(seq, 1, 1);
            REQUIRE(harness.engine().bytes() == after_prefill);
        }
    });
}

TEST_CASE("KV policies: cut back and replay gives the same rows and bytes") {
    for_each_policy(90, [&](const std::string& policy) {
        const auto layers = kv_layers(45);
        const KvOptions options = kv_options(policy, kContext, "f16");
        KvHarness straight(layers, options), winding(layers, options);
        const SeqId a = straight.open(6), b = winding.open(6);
        straight.feed(a, 500, 500);
        if (!make_kv_policy(policy, "test")->needs().can_rollback) {
            winding.feed(b, 10, 10);
            CHECK_THROWS_AS(winding.truncate(b, 5), Error);
            return;
        }
        std::int64_t tokens = 0;
        for (std::uint64_t turn = 0; tokens < 500; ++turn) {
            const auto forward = static_cast<std::int64_t>(philox(9, turn).v[0] % 100);
            const auto back = static_cast<std::int64_t>(philox(9, turn).v[1] % 250);
            winding.feed(b, std::min(forward, 500 - tokens), 33);
            tokens = std::min<std::int64_t>(500, tokens + forward);
            if (tokens == 500) break;
            const std::int64_t cut = std::max(tokens - back, winding.engine().rollback_floor(b));
            winding.truncate(b, cut);
            tokens = cut;
            CHECK(winding.engine().bytes() ==
                  KvEngine::predict_bytes(layers, options, tokens, Device::kCpu));
        }
        CHECK(winding.rows(b) == straight.rows(a));
        CHECK(winding.engine().rollback_floor(b) <= 500 - 64);
        if (winding.engine().rollback_floor(b) > 1) CHECK_THROWS_AS(winding.truncate(b, 1), Error);
        winding.truncate(b, 0);
        winding.feed(b, 500, 100);
        CHECK(winding.rows(b) == straight.rows(a));
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
            if (i == 4) mixed.engine().close(gone);
        }
        for (const auto& [seq, seed, count] : {std::tuple{a, 7, 300}, std::tuple{b, 8, 230}}) {
            KvHarness alone(kv_layers(45), options);
            const SeqId c = alone.open(static_cast<std::uint64_t>(seed));
            alone.feed(c, count, count);
            CHECK(alone.rows(c) == mixed.rows(seq));
        }
        CHECK(mixed.open(1) == gone);  // the number is used again
    });
}
