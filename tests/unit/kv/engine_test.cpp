// SPDX-License-Identifier: Apache-2.0
#include "kv/engine.h"

#include <doctest/doctest.h>

#include <cfloat>
#include <cmath>
#include <numeric>

#include "core/cpu.h"
#include "core/error.h"
#include "core/ledger.h"
#include "kv/layer_store.h"
#include "tests/support/kv_harness.h"

using namespace thimble;
using namespace thimble::test;

namespace {

// The last `window` positions (0: all), each key and the query at its own position.
Visible recent(std::int64_t position, std::int64_t window) {
    Visible out;
    for (std::int64_t p = window > 0 ? std::max<std::int64_t>(0, position - window + 1) : 0;
         p <= position; ++p) {
        out.keys.push_back(p);
    }
    out.positions = out.keys;
    out.query_position = position;
    return out;
}

// The cache of the attention-sink paper, written down literally: the first `sinks` and the last
// keys up to `budget`, numbered by their places in the cache when compact.
Visible streaming(std::int64_t position, std::int64_t sinks, std::int64_t budget, bool compact) {
    Visible out = recent(position, 0);
    while (static_cast<std::int64_t>(out.keys.size()) > budget)
        out.keys.erase(out.keys.begin() + sinks);
    out.positions = out.keys;
    if (compact) {
        std::iota(out.positions.begin(), out.positions.end(), 0);
        out.query_position = out.positions.back();
    }
    return out;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
    double worst = 0;
    for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
    return worst;
}

// Bound on an output's error when every key is off by `key_error` (2-norm) and every value by
// `value_error`: |q| <= 2 sqrt(dim), |v| <= 2, softmax moves by at most twice the score error.
double bound(const AttentionSpec& spec, double key_error, double value_error, double arithmetic) {
    const double norm = 2 * std::sqrt(spec.shape.head_dim);
    const double score_error = spec.scale * norm * (key_error + norm * arithmetic);
    return 2 * 2 * std::expm1(score_error) + value_error + 2 * 64 * arithmetic;
}

struct Precision {
    const char* type;
    double relative;  // of an element, to the largest of its block for q8_0
};

void check_against_double(const std::string& policy, Device device, const Precision& precision,
                          const std::function<Visible(std::int64_t, std::int64_t)>& visible) {
    constexpr std::int64_t kTokens = 330;
    const auto layers = kv_layers(70);
    KvHarness harness(layers, kv_options(policy, 1000, precision.type), device);
    const SeqId seq = harness.open(21);
    harness.feed(seq, 200, 90);
    harness.feed(seq, kTokens - 200, 1);
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
        const double key_error =
            precision.relative * 2 * std::sqrt(2.0) * std::sqrt(layers[layer].shape.head_dim);
        const double arithmetic = device == Device::kRef ? DBL_EPSILON * 64 : FLT_EPSILON * 8;
        const double allowed = device == Device::kRef ? bound(layers[layer], 0, 0, arithmetic)
                                                      : bound(layers[layer], key_error,
                                                              2 * precision.relative, arithmetic);
        for (std::int64_t p = 0; p < kTokens; p += p < 100 ? 9 : 1) {
            CAPTURE(layer);
            CAPTURE(p);
            const auto expected = attend_in_double(layers[layer], 21, layer, p,
                                                   visible(p, layers[layer].shape.window));
            const double error =
                largest_difference(harness.rows(seq, layer)[static_cast<std::size_t>(p)], expected);
            REQUIRE(error <= allowed);
        }
    }
}

}  // namespace

TEST_CASE("KV engine: the full cache is dense attention in double") {
    const auto visible = [](std::int64_t p, std::int64_t window) { return recent(p, window); };
    check_against_double("full", Device::kRef, {"f16", 0}, visible);
    for (const Precision precision : {Precision{"f32", 0}, Precision{"f16", 0x1p-11},
                                      Precision{"bf16", 0x1p-8}, Precision{"q8_0", 1.01 / 254}})
        check_against_double("full", Device::kCpu, precision, visible);
}

TEST_CASE("KV engine: streaming is dense attention on the sinks and the last keys") {
    for (const bool compact : {true, false}) {
        for (const auto& [sinks, budget] : {std::pair{4, 100}, std::pair{1, 2}, std::pair{0, 65},
                                            std::pair{70, 129}, std::pair{3, 64}}) {
            CAPTURE(compact);
            CAPTURE(budget);
            const std::string policy = "streaming:sink=" + std::to_string(sinks) +
                                       ",budget=" + std::to_string(budget) +
                                       ",positions=" + (compact ? "compact" : "original");
            const auto visible = [&](std::int64_t p, std::int64_t window) {
                return window > 0 ? recent(p, window) : streaming(p, sinks, budget, compact);
            };
            check_against_double(policy, Device::kRef, {"f16", 0}, visible);
            check_against_double(policy, Device::kCpu, {"f32", 0}, visible);
        }
    }
}

TEST_CASE("KV engine: a ring equals keeping every slot, bit for bit") {
    for (const std::int64_t window : {1, 2, 63, 64, 65, 127, 128, 129, 200}) {
        CAPTURE(window);
        const std::vector<AttentionSpec> layers{kv_layers(window)[1]};
        const AttentionSpec& spec = layers[0];
        KvHarness harness(layers, kv_options("full", 1000, "f16"));
        const SeqId seq = harness.open(31);
        harness.feed(seq, 600, 97);

        // The same through a linear store and one call per row with the window in the mask.
        const KvEncoding f16 = KvEncoding::parse("f16", "test", spec.shape.head_dim, Device::kCpu);
        CountingResource memory(Purpose::kKv);
        LayerStore linear(LayerPlan::make(spec.shape, {}, f16, f16, 1000), memory);
        linear.reserve(0, 600);
        Team team(1);
        Workspace workspace(std::size_t{1} << 24);
        const Exec exec{.isa = best_isa(), .team = &team, .workspace = &workspace};
        for (std::int64_t p = 0; p < 600; ++p) {
            const auto row = [&](KvInput what, int heads) {
                const auto wide = kv_input(31, 0, p, what, heads, spec.shape.head_dim);
                return std::vector<float>(wide.begin(), wide.end());
            };
            const auto view = [&](std::vector<float>& x) {
                const auto n = static_cast<std::int64_t>(x.size());
                return View{x.data(), DType::kF32, 1, n, n};
            };
            std::vector<float> q = row(KvInput::kQuery, 6), k = row(KvInput::kKey, 2),
                               v = row(KvInput::kValue, 2), out(q.size());
            ops::rope(exec, spec.rope, spec.shape.head_dim, {&p, 1}, view(q));
            ops::rope(exec, spec.rope, spec.shape.head_dim, {&p, 1}, view(k));
            linear.write(exec, p, view(k), view(v));
            const auto all = linear.segments(0, p + 1);
            ops::attention(exec, {.q = view(q),
                                  .out = view(out),
                                  .segments = all,
                                  .q_positions = {&p, 1},
                                  .heads = 6,
                                  .kv_heads = 2,
                                  .head_dim = spec.shape.head_dim,
                                  .scale = spec.scale,
                                  .window = window,
                                  .softcap = spec.softcap});
            const std::vector<double> wide(out.begin(), out.end());
            REQUIRE(wide == harness.rows(seq, 0)[static_cast<std::size_t>(p)]);
        }
    }
}

TEST_CASE("KV engine: the last 64 tokens can always be taken back, and no lost key is promised") {
    const KvEncoding f16{.f64 = false, .layout = LayoutId::k_f16};
    for (const std::int64_t keys : {1, 2, 63, 64, 65, 66, 127, 128, 129, 130, 500, 512}) {
        const AttentionLayer shape{.kv_heads = 1, .heads = 1, .head_dim = 32, .window = keys};
        const LayerPlan plan = LayerPlan::make(shape, {.window = keys}, f16, f16, 1000);
        CountingResource memory(Purpose::kKv);
        const LayerStore store(plan, memory);
        for (std::int64_t written = 0; written < 2000; ++written) {
            const std::int64_t floor = store.rollback_floor(written);
            CHECK(floor <= std::max<std::int64_t>(0, written - 64));
            // Slots are overwritten by whole tiles from the oldest on.
            const std::int64_t oldest = (written + 63) / 64 * 64 - plan.slots;
            if (floor > 0) CHECK(floor - (keys - 1) >= oldest);
        }
    }
}

TEST_CASE("KV engine: a sequence that does not fit is refused with the flag to raise") {
    KvHarness harness(kv_layers(20), kv_options("full", 100));
    const SeqId seq = harness.open(1);
    harness.feed(seq, 90, 90);
    CHECK_THROWS_WITH_AS(harness.feed(seq, 11, 11),
                         "--ctx-size: 101 tokens do not fit a context of 100 (raise --ctx-size or "
                         "shorten the text)",
                         Error);
    harness.feed(seq, 10, 10);
    CHECK(harness.engine().tokens(seq) == 100);
}

TEST_CASE("KV engine: compact streaming goes on past the context, true positions do not") {
    const auto layers = kv_layers(20);
    KvHarness endless(layers, kv_options("streaming:budget=32", 100));
    endless.feed(endless.open(1), 300, 100);
    KvHarness original(layers, kv_options("streaming:budget=32,positions=original", 100));
    const SeqId seq = original.open(1);
    CHECK_THROWS_AS(original.feed(seq, 101, 101), Error);
}

TEST_CASE("KV engine: a step over the memory budget throws and leaves the count right") {
    KvHarness harness(kv_layers(20), kv_options("full", 100000, "f32"));
    const SeqId seq = harness.open(1);
    harness.feed(seq, 64, 64);
    Ledger& ledger = Ledger::process();
    Budget budget;
    budget.limit_bytes[0] = ledger.current_bytes(Tier::kRam) + (std::uint64_t{1} << 20);
    ledger.set_budget(budget);
    const std::uint64_t others =
        ledger.current_bytes(Tier::kRam, Purpose::kKv) - harness.engine().bytes();
    try {
        harness.engine().begin_step(seq, 50000);
        FAIL("fitted");
    } catch (const Error& e) {
        CHECK(e.exit() == Exit::kOverBudget);
    }
    ledger.set_budget({});
    CHECK(ledger.current_bytes(Tier::kRam, Purpose::kKv) - others == harness.engine().bytes());
    harness.feed(seq, 64, 64);
    KvHarness alone(kv_layers(20), kv_options("full", 1000, "f32"));
    const SeqId b = alone.open(1);
    alone.feed(b, 128, 128);
    CHECK(alone.rows(b) == harness.rows(seq));
}

TEST_CASE("KV engine: options that do not fit are refused by name") {
    const auto layers = kv_layers(0);
    const auto message = [&](const KvOptions& options) -> std::string {
        try {
            const KvEngine engine(layers, options, Device::kCpu);
        } catch (const Error& e) {
            CHECK(e.exit() == Exit::kUsage);
            return e.what();
        }
        return {};
    };
    CHECK(message(kv_options("ful", 10)) ==
          "--kv-policy: unknown KV policy 'ful' (did you mean 'full'?)");
    CHECK(message(kv_options("full", 10, "q8")) ==
          "-ctk: unknown KV cache type 'q8' (did you mean 'q8_0'?)");
    CHECK(message(kv_options("full:budget=3", 10)) != "");
    CHECK(message(kv_options("streaming:sink=5,budget=5", 10)) != "");
    CHECK(message(kv_options("full", 0)) != "");
    auto narrow = layers;
    narrow[0].shape.head_dim = 48;
    try {
        const KvEngine engine(narrow, kv_options("full", 10, "q8_0"), Device::kCpu);
        FAIL("accepted");
    } catch (const Error& e) {
        CHECK(std::string(e.what()).find("48") != std::string::npos);
    }
}
