// SPDX-License-Identifier: Apache-2.0
// Policies that merge slots: which become one, with which weights, and that nothing is lost.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "core/cpu.h"
#include "core/error.h"
#include "kernels/layout/rng.h"
#include "kv/chain.h"
#include "kv/layer_state.h"
#include "tests/support/kv_brute_force.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr std::int64_t kTokens = 120;
constexpr int kLayer = 2;

// One layer on the reference device with keys, values and sums of the test's choice.
struct Bench {
    Bench() {
        spec.shape = {.kv_heads = 2, .heads = 4, .head_dim = 16};
        spec.rope.dims = 16;
        spec.scale = 0.25;
        model.layers.assign(6, spec.shape);
        const KvEncoding encoding{.f64 = true};
        plan = LayerPlan::make(spec.shape, {}, encoding, encoding, 2 * kTokens);
        state = std::make_unique<LayerState>(plan, memory);
    }

    // [tokens][kv_heads * dim]
    void write(const std::vector<Row>& k, const std::vector<Row>& v) {
        const auto first = state->store.slots(0);
        const auto n = std::ssize(k);
        Row keys, values;
        for (const Row& row : k) keys.insert(keys.end(), row.begin(), row.end());
        for (const Row& row : v) values.insert(values.end(), row.begin(), row.end());
        state->store.reserve(first, n);
        state->store.write(exec, first, {keys.data(), DType::kF64, n, 32, 32},
                           {values.data(), DType::kF64, n, 32, 32});
    }
    void set_sums(const std::vector<std::vector<float>>& sums) {
        for (std::size_t h = 0; h < 2; ++h) state->sums[h].assign(sums[h].begin(), sums[h].end());
    }
    KvEdit edit(const std::string& policy, std::int64_t tokens, std::int64_t seen = kTokens,
                bool prompt = true) {
        const KvChain chain = KvChain::parse(policy, "test");
        const LayerView view(exec, model, spec, kLayer, *state, seen, prompt, memory);
        return chain.edit(view, chain.score(view), tokens);
    }
    // Rows of a head as stored.
    std::vector<Row> read(bool keys, int head) {
        const std::int64_t n = state->store.slots(head);
        std::vector<float> rows(static_cast<std::size_t>(n * 16));
        state->store.read(exec, keys, head, 0, {rows.data(), DType::kF32, n, 16, 16});
        std::vector<Row> out;
        for (std::int64_t i = 0; i < n; ++i)
            out.emplace_back(rows.begin() + i * 16, rows.begin() + (i + 1) * 16);
        return out;
    }
    Row attend(const Row& query) {  // all 4 heads' queries, [64]
        Row q = query, out(query.size());
        const auto segments = state->store.segments(0, kTokens);
        const std::int64_t position = kTokens;
        ops::attention(exec, {.q = {q.data(), DType::kF64, 1, 64, 64},
                              .out = {out.data(), DType::kF64, 1, 64, 64},
                              .segments = segments,
                              .q_positions = {&position, 1},
                              .heads = 4,
                              .kv_heads = 2,
                              .head_dim = 16,
                              .scale = spec.scale});
        return out;
    }

    AttentionSpec spec;
    ModelInfo model;
    LayerPlan plan;
    CountingResource memory{Purpose::kKv};
    Team team{1};
    Workspace workspace{std::size_t{1} << 20};
    Exec exec{.device = Device::kRef, .isa = best_isa(), .team = &team, .workspace = &workspace};
    std::unique_ptr<LayerState> state;
};

double draw(std::uint64_t seed, std::uint64_t i, std::uint64_t stream) {
    return 2.0 * static_cast<double>(unit_float(philox(seed, i, stream).v[0])) - 1.0;
}

// Keys that drift, so that neighbours are alike: each is its predecessor and something new. In
// float, as they are read back.
std::vector<Row> drifting(std::uint64_t seed, double news) {
    std::vector<Row> out;
    for (std::int64_t t = 0; t < kTokens; ++t) {
        Row row(32);
        for (std::size_t c = 0; c < row.size(); ++c) {
            const auto at = static_cast<std::uint64_t>(t) * 32 + c;
            // Now and then a jump.
            const double share =
                philox(seed, static_cast<std::uint64_t>(t), c / 16 + 50).v[0] % 9 == 0
                    ? 1.0
                    : news * (0.5 + 0.5 * static_cast<double>(t) / kTokens);
            row[c] = (t > 0 ? (1 - share) * out.back()[c] : 0) + share * 3 * draw(seed, at, 1);
            row[c] = static_cast<double>(static_cast<float>(row[c]));
        }
        out.push_back(row);
    }
    return out;
}
std::vector<Row> random_rows(std::uint64_t seed) {
    std::vector<Row> out;
    for (std::int64_t t = 0; t < kTokens; ++t) {
        Row row(32);
        for (std::size_t c = 0; c < row.size(); ++c)
            row[c] = static_cast<double>(
                static_cast<float>(draw(seed, static_cast<std::uint64_t>(t) * 32 + c, 2)));
        out.push_back(row);
    }
    return out;
}
std::vector<std::vector<float>> random_sums(std::uint64_t seed) {
    std::vector<std::vector<float>> sums(2);
    for (std::uint64_t i = 0; i < 2 * kTokens; ++i)
        sums[i % 2].push_back(unit_float(philox(seed, i, 3).v[0]));
    return sums;
}
Row head_of(const Row& row, int head) {
    return {row.begin() + head * 16, row.begin() + head * 16 + 16};
}

// --- KVMerger by hand: positions of each set, kept whole ones apart ---

struct Merged {
    std::set<std::int32_t> whole;
    std::vector<std::vector<std::int32_t>> sets;
};

Merged merger_sets(const std::vector<Row>& keys, const std::vector<float>& sums, int head,
                   std::int64_t recent, std::int64_t heavy, double least) {
    Merged out;
    std::vector<std::pair<float, std::int32_t>> order;
    for (std::int32_t p = 0; p < kTokens; ++p) {
        if (p >= kTokens - recent)
            out.whole.insert(p);
        else
            order.emplace_back(-sums[static_cast<std::size_t>(p)], p);
    }
    std::sort(order.begin(), order.end());
    for (std::int64_t i = 0; i < heavy; ++i)
        out.whole.insert(order[static_cast<std::size_t>(i)].second);
    // From the last to the first, as the paper walks.
    for (std::int32_t p = kTokens - 1; p >= 0; --p) {
        if (out.whole.contains(p)) continue;
        bool joins = false;
        if (!out.sets.empty() && out.sets.back().back() == p + 1) {
            const Row a = head_of(keys[static_cast<std::size_t>(p)], head);
            const Row b = head_of(keys[static_cast<std::size_t>(p + 1)], head);
            joins = dot(a, b) >= least * std::sqrt(dot(a, a) * dot(b, b));
        }
        if (!joins) out.sets.emplace_back();
        out.sets.back().push_back(p);
    }
    return out;
}

// Weights of a set's members by the card, in the order given.
Row merger_weights(const std::vector<Row>& keys, int head, const std::vector<std::int32_t>& set,
                   std::int32_t pivot) {
    const auto far = [&](std::int32_t p) {
        Row d = head_of(keys[static_cast<std::size_t>(p)], head);
        const Row k = head_of(keys[static_cast<std::size_t>(pivot)], head);
        for (std::size_t c = 0; c < d.size(); ++c) d[c] -= k[c];
        return std::sqrt(dot(d, d));
    };
    const auto n = static_cast<double>(set.size());
    double sigma = 0;
    for (const auto p : set) sigma += far(p) / n / std::sqrt(2.0);
    for (int round = 0; round < 2; ++round) {
        Row g;
        double sum = 0;
        for (const auto p : set) {
            g.push_back(std::exp(-std::pow(far(p) / std::max(sigma, 1e-6), 2) / 2));
            sum += g.back();
        }
        if (round == 1) {
            for (double& x : g) x /= sum;
            return g;
        }
        sigma = sum / (std::sqrt(2.0) * n);
    }
    return {};
}

}  // namespace

TEST_CASE("kvmerger: runs of alike keys become one around the heaviest, as by hand in double") {
    const std::vector<Row> keys = drifting(1, 0.35), values = random_rows(2);
    const auto sums = random_sums(3);
    for (const std::string mass : {"bias", "paper", "none"}) {
        for (const double least : {0.75, 0.9}) {
            Bench bench;
            bench.write(keys, values);
            bench.set_sums(sums);
            const std::string policy = "kvmerger:budget=70,recent=0.2,heavy=0.3,mass=" + mass +
                                       ",least_cosine=" + std::to_string(least);
            const KvEdit edit = bench.edit(policy, 70);
            bench.state->store.apply(bench.exec, edit, false);
            for (int head = 0; head < 2; ++head) {
                const auto h = static_cast<std::size_t>(head);
                Merged expected = merger_sets(keys, sums[h], head, 14, 21, least);
                // The sets with least mass have no room.
                const auto mass_of = [&](const std::vector<std::int32_t>& set) {
                    double sum = 0;
                    for (const auto p : set)
                        sum += static_cast<double>(sums[h][static_cast<std::size_t>(p)]);
                    return sum;
                };
                std::sort(expected.sets.begin(), expected.sets.end(),
                          [&](const auto& a, const auto& b) { return mass_of(a) > mass_of(b); });
                if (expected.sets.size() > 35) expected.sets.resize(35);
                std::map<std::int32_t, std::pair<Row, Row>> slots;  // by position: key, value
                std::map<std::int32_t, double> bias;
                for (const auto p : expected.whole) {
                    slots[p] = {head_of(keys[static_cast<std::size_t>(p)], head),
                                head_of(values[static_cast<std::size_t>(p)], head)};
                }
                std::size_t largest = 0;
                for (const auto& set : expected.sets) {
                    largest = std::max(largest, set.size());
                    const auto pivot =
                        *std::max_element(set.begin(), set.end(), [&](auto a, auto b) {
                            return sums[h][static_cast<std::size_t>(a)] <
                                   sums[h][static_cast<std::size_t>(b)];
                        });
                    const Row w = merger_weights(keys, head, set, pivot);
                    auto& [k, v] = slots[pivot];
                    k.assign(16, 0), v.assign(16, 0);
                    const double times = mass == "paper" ? static_cast<double>(set.size()) : 1;
                    for (std::size_t i = 0; i < set.size(); ++i) {
                        for (std::size_t c = 0; c < 16; ++c) {
                            k[c] += w[i] * head_of(keys[static_cast<std::size_t>(set[i])], head)[c];
                            v[c] += times * w[i] *
                                    head_of(values[static_cast<std::size_t>(set[i])], head)[c];
                        }
                    }
                    bias[pivot] = std::log(static_cast<double>(set.size()));
                }
                REQUIRE(largest > 2);
                const auto positions = bench.state->store.positions(head);
                const auto k = bench.read(true, head), v = bench.read(false, head);
                REQUIRE(positions.size() == slots.size());
                double worst = 0;
                std::size_t i = 0;
                for (const auto& [p, slot] : slots) {
                    REQUIRE(positions[i] == p);
                    for (std::size_t c = 0; c < 16; ++c) {
                        worst = std::max(worst, std::abs(k[i][c] - slot.first[c]));
                        worst = std::max(worst, std::abs(v[i][c] - slot.second[c]));
                    }
                    ++i;
                }
                CHECK(worst < 1e-5);
                // A merged key lies among its members, and weights sum to one.
                for (const KvMerge& m : edit.heads[h].merges) {
                    float sum = 0;
                    for (const float w : m.key_weights) sum += w;
                    CHECK(sum == doctest::Approx(1.0f).epsilon(1e-6));
                    CHECK(m.bias == (mass == "bias" ? static_cast<float>(bias[m.into]) : 0.0f));
                }
            }
        }
    }
}

TEST_CASE("kvmerger: likeness is lowered until the budget holds, and no further") {
    const std::vector<Row> keys = drifting(1, 0.35), values = random_rows(2);
    const auto sums = random_sums(3);
    Bench bench;
    bench.write(keys, values);
    bench.set_sums(sums);
    for (const std::int64_t budget : {80, 90, 100, 115}) {
        CAPTURE(budget);
        const KvEdit edit =
            bench.edit("kvmerger:recent=0.2,heavy=0.3,budget=" + std::to_string(budget), budget);
        for (int head = 0; head < 2; ++head) {
            const auto h = static_cast<std::size_t>(head);
            const auto recent = static_cast<std::int64_t>(0.2 * static_cast<double>(budget));
            const auto whole = static_cast<std::int64_t>(0.5 * static_cast<double>(budget));
            std::int64_t most = 0;  // sets that fit, over every likeness from 0.5 on
            for (double least = 0.5; least < 1; least += 1.0 / 4096) {
                const auto count = std::ssize(
                    merger_sets(keys, sums[h], head, recent, whole - recent, least).sets);
                if (count <= budget - whole) most = std::max(most, count);
            }
            REQUIRE(most > 0);
            CHECK(std::abs(std::ssize(edit.heads[h].keep) - (whole + most)) <= 1);
            CHECK(std::ssize(edit.heads[h].keep) <= budget);
            std::size_t members = edit.heads[h].keep.size();
            for (const KvMerge& m : edit.heads[h].merges) members += m.slots.size() - 1;
            CHECK(members == kTokens);  // all live on
        }
    }
}

TEST_CASE("kvmerger: merging equal keys and values changes no output") {
    // Runs of three equal tokens: what is merged stands for all of them.
    const std::vector<Row> drift = drifting(4, 1.0), random = random_rows(5);
    std::vector<Row> keys, values;
    for (std::int64_t t = 0; t < kTokens; ++t) {
        keys.push_back(drift[static_cast<std::size_t>(t / 3 * 3)]);
        values.push_back(random[static_cast<std::size_t>(t / 3 * 3)]);
    }
    Row query(64);
    for (std::size_t i = 0; i < query.size(); ++i) query[i] = 2 * draw(6, i, 1);
    for (const auto& [mass, same] : {std::pair("bias", true), std::pair("none", false)}) {
        Bench bench;
        bench.write(keys, values);
        bench.set_sums(random_sums(7));
        const Row before = bench.attend(query);
        const KvEdit edit = bench.edit(
            std::string("kvmerger:budget=100,recent=0.1,heavy=0.2,least_cosine=0.9999,mass=") +
                mass,
            100);
        bench.state->store.apply(bench.exec, edit, false);
        CHECK(bench.state->store.slots(0) < 90);
        const Row after = bench.attend(query);
        double worst = 0;
        for (std::size_t i = 0; i < 64; ++i)
            worst = std::max(worst, std::abs(before[i] - after[i]));
        CHECK((worst < 1e-6) == same);
    }
}

TEST_CASE("kvmerger: the first and last layers drop, as h2o does") {
    KvHarness harness(kv_layers(0), kv_options("kvmerger:budget=40,recent=0.5", 300, "f32"));
    KvHarness other(kv_layers(0), kv_options("h2o:budget=40,recent=0.5", 300, "f32"));
    const SeqId a = harness.open(1), b = other.open(1);
    harness.feed_prompt(a, kTokens, 50);
    other.feed_prompt(b, kTokens, 50);
    for (int layer = 0; layer < 3; ++layer) {
        for (int head = 0; head < 2; ++head)
            CHECK(kept_positions(harness, a, layer, head) == kept_positions(other, b, layer, head));
    }
    CHECK_THROWS_AS((void)KvChain::parse("kvmerger:recent=0.6,heavy=0.5", "test"), Error);
}

TEST_CASE(
    "elastic: every slot that goes joins the nearest scored anchor, and their mean is the slot") {
    const std::vector<Row> keys = random_rows(11), values = random_rows(12);
    const auto sums = random_sums(13);
    for (const std::int64_t budget : {6, 30, 96, 119}) {
        CAPTURE(budget);
        Bench bench;
        bench.write(keys, values);
        bench.set_sums(sums);
        const KvEdit edit =
            bench.edit("elastic:mass=bias,budget=" + std::to_string(budget), budget);
        bench.state->store.apply(bench.exec, edit, false);
        // By hand: anchors by the mean of both heads.
        Row score;
        for (std::size_t p = 0; p < kTokens; ++p)
            score.push_back(static_cast<double>(sums[0][p]) / 2 +
                            static_cast<double>(sums[1][p]) / 2);
        double margin = 0;
        const auto kept = best_positions(score, 4, 1, budget, margin);
        REQUIRE(margin > 1e-7);
        std::map<std::int32_t, std::vector<std::int32_t>> members;
        for (const auto p : kept) members[p].push_back(p);
        for (std::int32_t p = 0; p < kTokens; ++p) {
            if (std::binary_search(kept.begin(), kept.end(), p)) continue;
            std::int32_t nearest = -1;
            for (const auto anchor : kept) {
                if (anchor < 4 || anchor == kTokens - 1) continue;
                if (nearest < 0 || std::abs(anchor - p) <= std::abs(nearest - p)) nearest = anchor;
            }
            members[nearest].push_back(p);
        }
        for (int head = 0; head < 2; ++head) {
            const auto positions = bench.state->store.positions(head);
            REQUIRE(std::vector<std::int32_t>(positions.begin(), positions.end()) == kept);
            for (const bool is_key : {true, false}) {
                const auto& all = is_key ? keys : values;
                const auto rows = bench.read(is_key, head);
                Row sum(16), total(16);
                double worst = 0;
                for (std::size_t i = 0; i < kept.size(); ++i) {
                    Row mean(16);
                    const auto& of = members[kept[i]];
                    for (const auto p : of) {
                        for (std::size_t c = 0; c < 16; ++c)
                            mean[c] += head_of(all[static_cast<std::size_t>(p)], head)[c] /
                                       static_cast<double>(of.size());
                    }
                    for (std::size_t c = 0; c < 16; ++c) {
                        worst = std::max(worst, std::abs(mean[c] - rows[i][c]));
                        sum[c] += static_cast<double>(of.size()) * rows[i][c];
                    }
                }
                CHECK(worst < 1e-6);
                // Counts times means are the sum of all.
                for (const Row& row : all)
                    for (std::size_t c = 0; c < 16; ++c) total[c] += head_of(row, head)[c];
                for (std::size_t c = 0; c < 16; ++c) CHECK(std::abs(sum[c] - total[c]) < 1e-4);
            }
            for (const KvMerge& m : edit.heads[static_cast<std::size_t>(head)].merges)
                CHECK(m.bias == std::log(static_cast<float>(m.slots.size())));
        }
    }
}

TEST_CASE("elastic: while answering the oldest after a fixed place goes") {
    for (const auto& [options, place] :
         {std::pair("budget=80%", 96 - 25), std::pair("budget=80%,distance=10", 10),
          std::pair("budget=20%,distance=-100", 0)}) {
        CAPTURE(options);
        const bool all = std::string(options).starts_with("budget=80");
        KvHarness harness(kv_layers(20), kv_options(std::string("elastic:") + options, 400, "f32"));
        const SeqId seq = harness.open(2);
        harness.feed_prompt(seq, kTokens, 40);
        std::vector<std::int32_t> cache = kept_positions(harness, seq, 0, 0);
        for (std::int32_t t = kTokens; t < kTokens + 60; ++t) {
            harness.feed(seq, 1, 1);
            cache.push_back(t);
            const auto allowed = static_cast<std::size_t>((all ? 0.8 : 0.2) * (t + 1) + 1e-9);
            // The first four stay in any case.
            while (cache.size() > allowed) cache.erase(cache.begin() + std::max(place, 4));
            REQUIRE(kept_positions(harness, seq, 0, 0) == cache);
            REQUIRE(kept_positions(harness, seq, 0, 1) == cache);
        }
    }
}

TEST_CASE("KV merges: a slot that stands for several tokens counts as many when merged again") {
    Bench bench;
    Row query(64);
    for (std::size_t i = 0; i < query.size(); ++i) query[i] = 2 * draw(6, i, 1);
    std::vector<Row> keys = random_rows(3), values = random_rows(4);
    for (std::size_t t = 10; t < 16; ++t) keys[t] = keys[10], values[t] = values[10];
    bench.write(keys, values);
    const Row before = bench.attend(query);
    const auto all_but = [](std::vector<std::int32_t> gone, std::int32_t count) {
        std::vector<std::int32_t> keep;
        for (std::int32_t i = 0; i < count; ++i) {
            if (std::find(gone.begin(), gone.end(), i) == gone.end()) keep.push_back(i);
        }
        return keep;
    };
    const auto merge = [&](std::vector<std::int32_t> slots, std::int32_t count) {
        KvEdit edit;
        const std::vector<float> w(slots.size(), 1.0f / static_cast<float>(slots.size()));
        std::vector<std::int32_t> gone(slots.begin() + 1, slots.end());
        for (int head = 0; head < 2; ++head) {
            edit.heads.push_back(
                {.keep = all_but(gone, count),
                 .merges = {{.into = slots[0],
                             .slots = slots,
                             .key_weights = w,
                             .value_weights = w,
                             .bias = std::log(static_cast<float>(slots.size()))}}});
        }
        bench.state->store.apply(bench.exec, edit, false);
    };
    merge({10, 11, 12, 13}, kTokens);
    merge({10, 11, 12}, kTokens - 3);  // one for four tokens and two more
    CHECK(bench.state->store.slots(0) == kTokens - 5);
    const Row after = bench.attend(query);
    for (std::size_t i = 0; i < 64; ++i)
        CHECK(after[i] == doctest::Approx(before[i]).epsilon(1e-5));
}
