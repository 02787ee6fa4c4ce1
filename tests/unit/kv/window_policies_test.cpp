// SPDX-License-Identifier: Apache-2.0
// Policies that score by the last queries of a prompt, against the whole matrix in double.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "core/error.h"
#include "kernels/layout/rng.h"
#include "kv/chain.h"
#include "tests/support/kv_brute_force.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr std::int64_t kTokens = 150;
constexpr double kMargin = 2e-6;  // single precision can tell this apart

// Sum over the window's rows, pooled, mean over the group; the window itself has no score.
Row window_scores(const FullAttention& full, int kv_head, std::int64_t window, int kernel,
                  bool largest) {
    const std::int64_t n = full.tokens();
    Row all(static_cast<std::size_t>(n));
    for (int g = 0; g < full.group(); ++g) {
        Row sums(static_cast<std::size_t>(n - window));
        for (std::int64_t row = n - window; row < n; ++row) {
            const Row p = full.probabilities(kv_head * full.group() + g, row);
            for (std::size_t j = 0; j < sums.size(); ++j) sums[j] += p[j];
        }
        for (std::int64_t j = 0; j < n - window; ++j) {
            double pooled = 0;
            for (std::int64_t i = j - kernel / 2; i <= j + kernel / 2; ++i) {
                const double x = i < 0 || i >= n - window ? 0.0 : sums[static_cast<std::size_t>(i)];
                pooled = largest ? std::max(pooled, x) : pooled + x / kernel;
            }
            all[static_cast<std::size_t>(j)] += pooled / full.group();
        }
    }
    return all;
}

std::vector<AttentionSpec> many_layers(std::size_t count) {
    return std::vector<AttentionSpec>(count, kv_layers(0)[0]);
}

std::vector<std::int64_t> planned(const std::string& policy, std::size_t layers,
                                  std::int64_t seen) {
    ModelInfo model;
    for (const auto& spec : many_layers(layers)) model.layers.push_back(spec.shape);
    return KvChain::parse(policy, "test").layer_tokens(model, seen, 1024);
}

}  // namespace

TEST_CASE("snapkv: keeps what the window's rows of the whole matrix attend to") {
    const auto layers = kv_layers(40);
    for (const auto& [options, window, kernel, largest] :
         {std::tuple{"window=16,kernel=5", 16, 5, false},
          std::tuple{"window=8,kernel=1", 8, 1, false},
          std::tuple{"window=20,kernel=7,pooling=max", 20, 7, true}}) {
        for (const std::int64_t budget : {25, 40, 75, 120, 149}) {
            CAPTURE(options);
            CAPTURE(budget);
            KvHarness harness(
                layers,
                kv_options("snapkv:budget=" + std::to_string(budget) + "," + options, 400, "f32"));
            const SeqId seq = harness.open(5);
            harness.feed_prompt(seq, kTokens, 60);
            for (const int layer : {0, 2}) {
                const FullAttention full(layers[static_cast<std::size_t>(layer)], 5,
                                         static_cast<std::size_t>(layer), kTokens);
                for (int head = 0; head < 2; ++head) {
                    double margin = 0;
                    const auto expected =
                        best_positions(window_scores(full, head, window, kernel, largest), 0,
                                       window, budget, margin);
                    // The largest of neighbours makes ties, which the later position wins.
                    if (!largest) REQUIRE(margin > kMargin);
                    if (margin > kMargin)
                        CHECK(kept_positions(harness, seq, layer, head) == expected);
                }
            }
        }
    }
}

TEST_CASE("pyramidkv: layers fall evenly, in sum what one budget for all gives") {
    for (const std::int64_t seen : {1000, 1001, 4096}) {
        for (const std::int64_t budget : {300, 500, 501, 733, 999}) {
            for (const std::size_t layers : {2, 5, 8, 30}) {
                for (const double beta : {1.0, 3.0, 20.0}) {
                    CAPTURE(seen);
                    CAPTURE(budget);
                    CAPTURE(layers);
                    CAPTURE(beta);
                    const std::int64_t w = 12;
                    const auto of = planned("pyramidkv:window=12,budget=" + std::to_string(budget) +
                                                ",beta=" + std::to_string(beta),
                                            layers, seen);
                    CHECK(std::accumulate(of.begin(), of.end(), std::int64_t{0}) ==
                          budget * static_cast<std::int64_t>(layers));
                    CHECK(std::is_sorted(of.rbegin(), of.rend()));
                    CHECK(of.front() <= seen);
                    // The card's formula in double.
                    const double c = static_cast<double>(budget - w);
                    double least = std::floor(c / beta), most = 2 * c - least;
                    if (most >= static_cast<double>(seen - w)) {
                        most = static_cast<double>(seen - w);
                        least = 2 * c - most;
                    }
                    const bool falls = most >= least && least >= static_cast<double>(w);
                    for (std::size_t i = 0; i < layers; ++i) {
                        const double share =
                            static_cast<double>(i) / static_cast<double>(layers - 1);
                        const double expected = falls ? most - share * (most - least) : c;
                        CHECK(std::abs(static_cast<double>(of[i] - w) - expected) <= 0.5 + 1e-9);
                    }
                    if (beta == 1.0) CHECK(of.front() == of.back());
                }
            }
        }
    }
    const auto steep = planned("pyramidkv:window=12,budget=300", 30, 4096);
    CHECK(steep.front() == 12 + 2 * 288 - 14);
    CHECK(steep.back() == 12 + 14);
    // A window above c / beta: uniform, as published.
    const auto flat = planned("pyramidkv:window=32,budget=300", 30, 4096);
    CHECK(flat == std::vector<std::int64_t>(30, 300));
}

TEST_CASE("pyramidkv: each layer keeps snapkv's best of its own budget") {
    const auto layers = many_layers(4);
    const std::string options = "window=4,kernel=3,beta=5";
    KvHarness harness(layers, kv_options("pyramidkv:budget=50," + options, 400, "f32"));
    const SeqId seq = harness.open(9);
    harness.feed_prompt(seq, kTokens, kTokens);
    const auto of = planned("pyramidkv:budget=50," + options, 4, kTokens);
    CHECK(of == std::vector<std::int64_t>{87, 62, 38, 13});
    for (std::size_t layer = 0; layer < 4; ++layer) {
        const FullAttention full(layers[layer], 9, layer, kTokens);
        for (int head = 0; head < 2; ++head) {
            double margin = 0;
            const auto expected =
                best_positions(window_scores(full, head, 4, 3, false), 0, 4, of[layer], margin);
            REQUIRE(margin > kMargin);
            CHECK(kept_positions(harness, seq, static_cast<int>(layer), head) == expected);
        }
    }
}

TEST_CASE("adakv: heads share a layer's budget by one choice over all of them") {
    const auto layers = kv_layers(40);
    constexpr std::int64_t kWindow = 8;
    for (const double alpha : {0.0, 0.2, 0.7, 1.0}) {
        bool uneven = false;
        for (const std::int64_t budget : {12, 40, 90}) {
            CAPTURE(alpha);
            CAPTURE(budget);
            const std::string snap = "snapkv:window=8,budget=" + std::to_string(budget);
            KvHarness harness(
                layers, kv_options(snap + "+adakv:alpha=" + std::to_string(alpha), 400, "f32"));
            KvHarness even(layers, kv_options(snap, 400, "f32"));
            const SeqId seq = harness.open(3), same = even.open(3);
            harness.feed_prompt(seq, kTokens, 70);
            even.feed_prompt(same, kTokens, 70);
            for (const int layer : {0, 2}) {
                const FullAttention full(layers[static_cast<std::size_t>(layer)], 3,
                                         static_cast<std::size_t>(layer), kTokens);
                const Row scores[] = {window_scores(full, 0, kWindow, 5, false),
                                      window_scores(full, 1, kWindow, 5, false)};
                const std::int64_t own = std::max(
                    static_cast<std::int64_t>(alpha * static_cast<double>(budget)), kWindow);
                // By brute force: one list of all that no head has for itself.
                std::vector<std::tuple<double, int, std::int32_t>> others;
                std::vector<std::set<std::int32_t>> expected(2);
                for (int head = 0; head < 2; ++head) {
                    double margin = 0;
                    const auto first = best_positions(scores[head], 0, kWindow, own, margin);
                    auto& set = expected[static_cast<std::size_t>(head)];
                    set.insert(first.begin(), first.end());
                    for (std::int32_t p = 0; p < kTokens; ++p) {
                        if (!set.contains(p))
                            others.emplace_back(-scores[head][static_cast<std::size_t>(p)], head,
                                                p);
                    }
                }
                std::sort(others.begin(), others.end());
                const auto room = static_cast<std::size_t>(2 * (budget - own));
                if (room > 0) {
                    REQUIRE(std::get<0>(others[room]) - std::get<0>(others[room - 1]) >
                            kMargin * -std::get<0>(others[0]));
                }
                for (std::size_t i = 0; i < room; ++i)
                    expected[static_cast<std::size_t>(std::get<1>(others[i]))].insert(
                        std::get<2>(others[i]));
                std::size_t all = 0;
                for (int head = 0; head < 2; ++head) {
                    const auto kept = kept_positions(harness, seq, layer, head);
                    const auto& set = expected[static_cast<std::size_t>(head)];
                    CHECK(kept == std::vector<std::int32_t>(set.begin(), set.end()));
                    CHECK(std::ssize(kept) >= own);
                    all += kept.size();
                    if (alpha == 1.0) CHECK(kept == kept_positions(even, same, layer, head));
                }
                CHECK(all == static_cast<std::size_t>(2 * budget));
                uneven |=
                    harness.engine().slots(seq, layer, 0) != harness.engine().slots(seq, layer, 1);
            }
        }
        CHECK(uneven == (alpha < 1));
    }
}

TEST_CASE("compresskv: all heads of a layer keep what the named heads attend to") {
    const auto layers = kv_layers(0);
    const HeadProfile profile{.model = "test",
                              .query_heads = 6,
                              .heads = {{4, 1}, {0, 2, 3}, {}},
                              .layer_score = {3, 1, 1}};
    const std::string policy = "compresskv:budget=45,sidecar=" + write_head_profile(profile);
    KvHarness harness(layers, kv_options(policy, 400, "f32"));
    const SeqId seq = harness.open(19);
    harness.feed_prompt(seq, kTokens, 64);
    constexpr std::int64_t kWindow = 8;
    // 32 and a share of 3 * (45 - 32): 23.4, 7.8, 7.8.
    const std::vector<std::int64_t> tokens{55, 40, 40};
    for (std::size_t i = 0; i < 3; ++i) {
        const FullAttention full(layers[i], 19, i, kTokens);
        auto heads = profile.heads[i];
        if (heads.empty()) heads = {0, 1, 2, 3, 4, 5};
        Row scores(static_cast<std::size_t>(kTokens));
        for (const std::int64_t head : heads) {
            // A group of one head is that head's pooled sums.
            Row sums(static_cast<std::size_t>(kTokens - kWindow));
            for (std::int64_t row = kTokens - kWindow; row < kTokens; ++row) {
                const Row p = full.probabilities(static_cast<int>(head), row);
                for (std::size_t j = 0; j < sums.size(); ++j) sums[j] += p[j];
            }
            for (std::int64_t j = 0; j < std::ssize(sums); ++j) {
                for (std::int64_t n = std::max<std::int64_t>(0, j - 2);
                     n <= std::min(j + 2, std::ssize(sums) - 1); ++n)
                    scores[static_cast<std::size_t>(j)] +=
                        sums[static_cast<std::size_t>(n)] / 5 / static_cast<double>(heads.size());
            }
        }
        double margin = 0;
        const auto best = best_positions(scores, 0, kWindow, tokens[i], margin);
        REQUIRE(margin > kMargin);
        for (int head = 0; head < 2; ++head)
            CHECK(kept_positions(harness, seq, static_cast<int>(i), head) == best);
    }
}

TEST_CASE("compresskv: with all heads named and equal layers it is snapkv over all heads") {
    // One K/V head, so snapkv's group is all heads.
    auto layers = kv_layers(0);
    for (auto& spec : layers) spec.shape.kv_heads = 1;
    const HeadProfile profile{.model = "test",
                              .query_heads = 6,
                              .heads = {{5, 4, 3, 2, 1, 0}, {0, 1, 2, 3, 4, 5}, {}},
                              .layer_score = {1, 1, 1}};
    KvHarness a(layers,
                kv_options("compresskv:budget=50,sidecar=" + write_head_profile(profile), 400));
    KvHarness b(layers, kv_options("snapkv:budget=50,window=8", 400));
    const SeqId i = a.open(4), j = b.open(4);
    a.feed_prompt(i, kTokens, 64);
    b.feed_prompt(j, kTokens, 64);
    for (int layer = 0; layer < 3; ++layer)
        CHECK(kept_positions(a, i, layer, 0) == kept_positions(b, j, layer, 0));
}

TEST_CASE(
    "compresskv: layers share by their scores, between 32 and thrice the mean, in sum exactly") {
    for (const std::int64_t budget : {10, 32, 33, 100, 500, 1999}) {
        for (std::uint64_t draw = 0; draw < 20; ++draw) {
            HeadProfile profile{.model = "test", .query_heads = 6, .heads = {}, .layer_score = {}};
            for (std::uint64_t i = 0; i < 12; ++i) {
                profile.heads.push_back({1});
                const double x = static_cast<double>(philox(draw, i).v[0]) / 4294967296.0;
                profile.layer_score.push_back(draw == 0 ? 0
                                                        : std::pow(x, static_cast<double>(draw)));
            }
            const auto of = planned("compresskv:budget=" + std::to_string(budget) +
                                        ",sidecar=" + write_head_profile(profile),
                                    12, 5000);
            CHECK(std::accumulate(of.begin(), of.end(), std::int64_t{0}) == 12 * budget);
            double sum = 0;
            for (const double x : profile.layer_score) sum += x;
            for (std::size_t i = 0; i < of.size(); ++i) {
                CHECK(of[i] >= std::min<std::int64_t>(32, budget));
                CHECK(of[i] <= 3 * budget);
                if (draw == 0) CHECK(of[i] == budget);
                for (std::size_t j = 0; j < of.size(); ++j) {
                    if (profile.layer_score[i] > profile.layer_score[j]) CHECK(of[i] >= of[j] - 1);
                }
                // Where no limit is near the share is the formula's, but for the remainder.
                const double share =
                    32 + profile.layer_score[i] / sum * 12 * static_cast<double>(budget - 32);
                const bool limited = *std::max_element(of.begin(), of.end()) >= 3 * budget - 1;
                if (draw > 0 && budget > 32 && !limited)
                    CHECK(std::abs(static_cast<double>(of[i]) - share) <= 1.5);
            }
        }
    }
}

TEST_CASE("compresskv: a sidecar that is absent, broken or of another model is refused by name") {
    const auto message = [](const std::string& policy, Exit exit) -> std::string {
        try {
            const KvEngine engine(kv_layers(0), kv_options(policy, 100), Device::kCpu);
        } catch (const Error& e) {
            CHECK(e.exit() == exit);
            return e.what();
        }
        return {};
    };
    CHECK(message("compresskv", Exit::kUsage).find("no sidecar given") != std::string::npos);
    CHECK(message("compresskv:sidecar=/nowhere.json", Exit::kNoInput) != "");
    HeadProfile profile{.model = "m", .query_heads = 6, .heads = {{1}, {2}}, .layer_score = {1, 1}};
    const auto with = [&] { return "compresskv:sidecar=" + write_head_profile(profile); };
    CHECK(message(with(), Exit::kBadData).find("a model with 2 layers, not 3") !=
          std::string::npos);
    profile.heads.push_back({3}), profile.layer_score.push_back(1);
    CHECK(message(with(), Exit::kBadData) == "");
    profile.query_heads = 8;
    CHECK(message(with(), Exit::kBadData).find("8 query heads, not 6") != std::string::npos);
    const auto parsed = [](const std::string& text) -> std::string {
        try {
            (void)HeadProfile::parse(text, "x.json");
        } catch (const Error& e) {
            CHECK(e.exit() == Exit::kBadData);
            return e.problem();
        }
        return {};
    };
    const std::string good =
        R"({"model":"m","query_heads":4,"heads":[[0,3],[]],"layer_score":[0.25,0.5]})";
    CHECK(parsed(good) == "");
    CHECK(HeadProfile::parse(good, "x").json().dump() == good);
    const auto swapped = [&](const std::string& from, const std::string& to) {
        std::string text = good;
        text.replace(text.find(from), from.size(), to);
        return parsed(text);
    };
    CHECK(swapped("[0,3]", "[0,4]") == "heads names head 4 of 4");
    CHECK(swapped("[0,3]", "[-1]") == "heads names head -1 of 4");
    CHECK(swapped("[0,3]", "[3,3]") == "heads names head 3 twice in a layer");
    CHECK(swapped("0.5", "-0.5") == "layer_score must be at least 0");
    CHECK(swapped(",0.5", "") == "heads and layer_score must have one entry for each layer");
    CHECK(swapped("model", "madel") == "has no 'model'");
    CHECK(swapped(":4", ":0").starts_with("query_heads must be"));
}

TEST_CASE("KV chains: what does not go together is refused with the reason") {
    const auto refused = [](const std::string& chain) {
        try {
            (void)KvChain::parse(chain, "--kv-policy");
        } catch (const Error& e) {
            CHECK(e.exit() == Exit::kUsage);
            return std::string(e.what());
        }
        return std::string();
    };
    CHECK(refused("adakv").find("no link that scores keys") != std::string::npos);
    CHECK(refused("tova+adakv").find("all heads of a layer keep the same keys") !=
          std::string::npos);
    CHECK(refused("snapkv+pyramidkv").find("scores keys as another link") != std::string::npos);
    CHECK(refused("pyramidkv:kernel=4").find("pyramidkv: kernel must be odd") != std::string::npos);
    CHECK(refused("kvzip+adakv").find("shared by all layers") != std::string::npos);
    CHECK(refused("pyramidkv+adakv").empty());
}
