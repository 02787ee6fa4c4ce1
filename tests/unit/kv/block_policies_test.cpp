// SPDX-License-Identifier: Apache-2.0
// Policies that choose which blocks a query reads, against lists in double.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/layout/rng.h"
#include "kv/chain.h"
#include "tests/support/kv_brute_force.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr std::int64_t kPrompt = 110, kAll = 140;

// Highest rated blocks, the newest and those of the sinks always among them; all slots of each.
std::vector<std::int64_t> read_slots(const Row& ratings, std::int64_t block, std::int64_t slots,
                                     std::int64_t count, std::int64_t sink_blocks,
                                     std::int64_t recent_blocks, double& margin) {
    const std::int64_t blocks = std::ssize(ratings);
    std::vector<std::int64_t> order(ratings.size());
    std::iota(order.begin(), order.end(), 0);
    const auto forced = [&](std::int64_t b) {
        return b < sink_blocks || b >= blocks - recent_blocks;
    };
    const auto rating = [&](std::int64_t b) { return ratings[static_cast<std::size_t>(b)]; };
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
        if (forced(a) != forced(b)) return forced(a);
        return rating(a) > rating(b);
    });
    if (count < blocks && !forced(order[static_cast<std::size_t>(count - 1)]))
        margin = std::min(margin, rating(order[static_cast<std::size_t>(count - 1)]) -
                                      rating(order[static_cast<std::size_t>(count)]));
    order.resize(static_cast<std::size_t>(std::min(count, blocks)));
    std::sort(order.begin(), order.end());
    std::vector<std::int64_t> out;
    for (const auto b : order)
        for (std::int64_t s = b * block; s < std::min(slots, (b + 1) * block); ++s)
            out.push_back(s);
    return out;
}

using Rate = double (*)(const FullAttention&, int kv_head, std::int64_t row, std::int64_t first,
                        std::int64_t end);

double by_bounds(const FullAttention& full, int kv_head, std::int64_t row, std::int64_t first,
                 std::int64_t end) {
    double best = -INFINITY;
    for (int g = 0; g < full.group(); ++g) {
        const Row& q = full.query(kv_head * full.group() + g, row);
        double bound = 0;
        for (std::size_t c = 0; c < q.size(); ++c) {
            double least = INFINITY, most = -INFINITY;
            for (std::int64_t p = first; p < end; ++p) {
                least = std::min(least, full.key(kv_head, p)[c]);
                most = std::max(most, full.key(kv_head, p)[c]);
            }
            bound += std::max(q[c] * least, q[c] * most);
        }
        best = std::max(best, bound);
    }
    return best;
}

double by_mean(const FullAttention& full, int kv_head, std::int64_t row, std::int64_t first,
               std::int64_t end) {
    double sum = 0;
    for (int g = 0; g < full.group(); ++g) {
        for (std::int64_t p = first; p < end; ++p)
            sum += dot(full.query(kv_head * full.group() + g, row), full.key(kv_head, p));
    }
    return sum / full.group() / static_cast<double>(end - first);
}

struct BlockRule {
    std::int64_t block, budget, sink_blocks, recent_blocks;
    int dense;
};

void check_reading(const std::string& policy, const BlockRule& rule, Rate rate) {
    CAPTURE(policy);
    const auto layers = kv_layers(33);
    KvHarness harness(layers, kv_options(policy, 400), Device::kRef);
    const SeqId seq = harness.open(8);
    harness.feed(seq, kPrompt, 64);
    harness.finish_prompt(seq);
    harness.feed(seq, kAll - kPrompt, 11);
    double margin = INFINITY;
    for (const int layer : {0, 2}) {
        const auto i = static_cast<std::size_t>(layer);
        const FullAttention full(layers[i], 8, i, kAll);
        double worst = 0;
        for (std::int64_t row = 100; row < kAll; ++row) {
            std::vector<Visible> visible(2);
            for (int head = 0; head < 2; ++head) {
                Visible& one = visible[static_cast<std::size_t>(head)];
                one.query_position = row;
                one.keys.resize(static_cast<std::size_t>(row + 1));
                std::iota(one.keys.begin(), one.keys.end(), 0);
                if (row >= kPrompt && layer >= rule.dense && rule.budget < row + 1) {
                    Row ratings;
                    for (std::int64_t first = 0; first <= row; first += rule.block)
                        ratings.push_back(
                            rate(full, head, row, first, std::min(row + 1, first + rule.block)));
                    one.keys = read_slots(ratings, rule.block, row + 1, rule.budget / rule.block,
                                          rule.sink_blocks, rule.recent_blocks, margin);
                }
                one.positions = one.keys;
            }
            const auto expected = attend_in_double(layers[i], 8, i, row, visible);
            const auto& got = harness.rows(seq, i)[static_cast<std::size_t>(row)];
            for (std::size_t c = 0; c < got.size(); ++c)
                worst = std::max(worst, std::abs(expected[c] - got[c]));
        }
        CHECK(worst < 1e-12);
    }
    CHECK(margin > 1e-5);
}

}  // namespace

TEST_CASE("quest: a query after the prompt reads the pages with the largest bounds") {
    check_reading("quest:budget=64,page=16,dense_layers=0", {16, 64, 0, 1, 0}, by_bounds);
    check_reading("quest:budget=50,page=7,dense_layers=2", {7, 50, 0, 1, 2}, by_bounds);
    check_reading("quest:budget=5,page=16,dense_layers=1", {16, 48, 0, 1, 1}, by_bounds);
    check_reading("quest:budget=500,dense_layers=0", {16, 500, 0, 1, 0}, by_bounds);
}

TEST_CASE("blocktopk: a query after the prompt reads the blocks whose mean keys are most alike") {
    check_reading("blocktopk:budget=64,dense_layers=0", {16, 64, 1, 1, 0}, by_mean);
    check_reading("blocktopk:budget=60,block=8,sink=20,recent=17", {8, 60, 3, 3, 1}, by_mean);
    check_reading("blocktopk:budget=90,block=5,sink=0,recent=1,dense_layers=0", {5, 90, 0, 1, 0},
                  by_mean);
}

TEST_CASE("quest: a page's bound is never below the product with any of its keys") {
    const auto policy = KvChain::parse_link("quest", "test");
    constexpr std::int64_t kDim = 48;
    for (std::uint64_t draw = 0; draw < 200; ++draw) {
        const auto count = static_cast<std::int64_t>(1 + philox(draw, 1, 9).v[0] % 16);
        const auto random = [&](std::uint64_t i, std::uint64_t stream) {
            const Philox4 r = philox(draw, i, stream);
            return std::ldexp(unit_float(r.v[0]) - 0.5f, static_cast<int>(r.v[1] % 24) - 12);
        };
        std::vector<float> keys, queries, described(2 * kDim);
        for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(count * kDim); ++i)
            keys.push_back(random(i, 2));
        for (std::uint64_t i = 0; i < 3 * kDim; ++i) queries.push_back(random(i, 3));
        policy->describe({keys.data(), DType::kF32, count, kDim, kDim}, described.data());
        float bound = 0;
        policy->rate({queries.data(), DType::kF32, 3, kDim, kDim}, described, {&bound, 1});
        for (std::int64_t k = 0; k < count; ++k) {
            for (std::int64_t g = 0; g < 3; ++g) {
                float product = 0;
                for (std::int64_t c = 0; c < kDim; ++c)
                    product += queries[static_cast<std::size_t>(g * kDim + c)] *
                               keys[static_cast<std::size_t>(k * kDim + c)];
                REQUIRE(bound >= product);
            }
        }
        // And it is reached: a page of one key is its product.
        policy->describe({keys.data(), DType::kF32, 1, kDim, kDim}, described.data());
        policy->rate({queries.data(), DType::kF32, 1, kDim, kDim}, described, {&bound, 1});
        float product = 0;
        for (std::size_t c = 0; c < kDim; ++c) product += queries[c] * keys[c];
        CHECK(bound == product);
    }
}
