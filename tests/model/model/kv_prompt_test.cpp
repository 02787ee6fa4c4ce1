// SPDX-License-Identifier: Apache-2.0
// Prompts, saved caches and shared caches of whole models.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "core/cpu.h"
#include "core/error.h"
#include "io/model_file.h"
#include "kv/cache_file.h"
#include "kv/chain.h"
#include "tests/support/golden_model.h"
#include "tests/support/process.h"
#include "tests/support/runs.h"
#include "tests/support/temp_dir.h"

using namespace thimble;

namespace {

RunnerOptions with_policy(const std::string& policy, Device device = Device::kCpu) {
    RunnerOptions options;
    options.device = device;
    options.isa = best_isa();
    options.kv.policy = policy;
    options.kv.context_tokens = 128;
    options.step_tokens = 8;
    return options;
}

struct Model {
    Model(const std::string& name, const std::string& policy, Device device = Device::kCpu)
        : golden(test::golden_model(name)),
          runner(ModelSource::open(golden.directory), with_policy(policy, device), team) {
        runner.set_encoder([](const std::string&) { return std::vector<std::int32_t>{3, 4, 5}; });
    }
    [[nodiscard]] std::span<const std::int32_t> tokens() const { return golden.prompts[1].tokens; }
    [[nodiscard]] std::vector<double> next(SeqId seq, std::int32_t token) {
        return read([&](const Runner::LogitsSink& sink) {
            runner.forward(seq, {&token, 1}, 1, sink);
        });
    }
    template <class Fn>
    [[nodiscard]] static std::vector<double> read(Fn&& fn) {
        std::vector<double> out;
        fn([&](std::int64_t, View row) {
            for (std::int64_t r = 0; r < row.rows; ++r) {
                for (std::int64_t i = 0; i < row.cols; ++i)
                    out.push_back(row.dtype == DType::kF64 ? row.row<double>(r)[i]
                                                           : double{row.row<float>(r)[i]});
            }
        });
        return out;
    }

    const test::GoldenModel& golden;
    Team team{1};
    Runner runner;
};

}  // namespace

TEST_CASE("prompts: the last row is dense whatever the policy, and layers give what chunks give") {
    for (const char* name : {"llama-tied", "gemma3"}) {
        Model full(name, "full");
        const SeqId f = full.runner.kv().open();
        const auto expected = Model::read(
            [&](const Runner::LogitsSink& sink) { full.runner.prompt(f, full.tokens(), 1, sink); });
        for (const char* policy : {"snapkv:budget=8,window=4", "h2o:budget=8", "tova:budget=8",
                                   "kvzip:budget=50%,chunk=16"}) {
            INFO(name, ' ', policy);
            Model by_layer(name, policy), by_chunk(name, policy);
            const SeqId a = by_layer.runner.kv().open(), b = by_chunk.runner.kv().open();
            const auto last = Model::read([&](const Runner::LogitsSink& sink) {
                by_layer.runner.prompt(a, by_layer.tokens(), 1, sink);
            });
            CHECK(last == expected);
            by_chunk.runner.forward(b, by_chunk.tokens(), 0, {});
            by_chunk.runner.end_prompt(b, by_chunk.tokens());
            CHECK(by_layer.runner.kv().bytes(a) == by_chunk.runner.kv().bytes(b));
            CHECK(by_layer.next(a, 7) == by_chunk.next(b, 7));
            CHECK(by_layer.runner.kv().bytes(a) < full.runner.kv().bytes(f) + 65536);
        }
    }
}

TEST_CASE("kvzip: a key is worth the largest probability of the rows that repeat its piece") {
    // The model repeats the prompt itself: the same forward over prompt and repetition gives the
    // probabilities, and the kept slots are their best, over all layers and heads.
    Model model("llama-tied", "kvzip:budget=40%,chunk=64");
    const auto tokens = model.tokens();
    const SeqId seq = model.runner.kv().open();
    model.runner.forward(seq, tokens, 0, {});
    const std::uint64_t before = model.runner.kv().bytes(seq);
    model.runner.learn_prompt(seq, tokens);
    CHECK(model.runner.kv().tokens(seq) == std::ssize(tokens));
    CHECK(model.runner.kv().bytes(seq) >= before);  // the sums came, keys stayed
    model.runner.kv().end_prompt(model.runner.exec(), seq);
    const auto layers = model.runner.spec().layers;
    std::int64_t kept = 0, heads = 0;
    for (int layer = 0; layer < static_cast<int>(layers); ++layer) {
        const auto& shape = model.runner.spec().attention[static_cast<std::size_t>(layer)].shape;
        for (int head = 0; head < shape.kv_heads; ++head, ++heads) {
            const auto positions = model.runner.kv().positions(seq, layer, head);
            kept += std::ssize(positions);
            for (std::int32_t sink = 0; sink < 4; ++sink)
                CHECK(std::find(positions.begin(), positions.end(), sink) != positions.end());
        }
    }
    CHECK(kept == heads * (std::ssize(tokens) * 2 / 5));
}

TEST_CASE("gemfilter: with room for all it is the full cache, with less a prompt of those tokens") {
    for (const char* name : {"llama-tied", "gemma3"}) {
        INFO(name);
        Model full(name, "full"), roomy(name, "gemfilter:budget=1000"),
            tight(name, "gemfilter:budget=10");
        const auto tokens = full.tokens();
        const SeqId a = full.runner.kv().open(), b = roomy.runner.kv().open(),
                    c = tight.runner.kv().open();
        const auto prompt = [&](Model& model, SeqId seq, std::span<const std::int32_t> text) {
            return Model::read(
                [&](const Runner::LogitsSink& sink) { model.runner.prompt(seq, text, 1, sink); });
        };
        CHECK(prompt(full, a, tokens) == prompt(roomy, b, tokens));
        const auto filtered = prompt(tight, c, tokens);
        CHECK(tight.runner.kv().tokens(c) == 10);
        // Some ten tokens in their order give the same logits: found by asking the engine again.
        const int layer = tight.runner.kv().filter_layer();
        CHECK(layer >= 0);
        CHECK(layer < static_cast<int>(tight.runner.spec().layers));
        CHECK(filtered != prompt(full, full.runner.kv().open(), tokens));
    }
}

TEST_CASE("saved caches go on as the sequence would, and others are refused") {
    const test::TemporaryDirectory directory;
    const std::string path = directory.file("cache.safetensors");
    for (const char* name : {"llama-tied", "gemma3"}) {
        for (const std::string policy :
             {"full", "snapkv:budget=9,window=4", "h2o:budget=9", "streaming:budget=9",
              "snapkv:budget=12,window=4+think:ratio=0.5,recent=4", "quest:budget=16"}) {
            INFO(name, ' ', policy);
            Model from(name, policy), to(name, policy);
            const auto head = [&](const std::string& model) {
                return KvFileHead::of(model, with_policy(policy).kv,
                                      {from.tokens().begin(), from.tokens().end()});
            };
            const SeqId a = from.runner.kv().open();
            from.runner.prompt(a, from.tokens(), 0, {});
            save_sequence(from.runner.kv(), a, head("m"), path);
            CHECK(read_kv_head(path).tokens == head("m").tokens);
            const SeqId b = load_sequence(to.runner.kv(), head("m"), path);
            CHECK(to.runner.kv().tokens(b) == from.runner.kv().tokens(a));
            for (const std::int32_t token : {5, 9, 2})
                CHECK(from.next(a, token) == to.next(b, token));
            CHECK(to.runner.kv().bytes(b) == from.runner.kv().bytes(a));
            const std::uint64_t held = to.runner.kv().bytes();
            CHECK_THROWS_AS((void)load_sequence(to.runner.kv(), head("other"), path), Error);
            KvFileHead changed = head("m");
            changed.policy = "full:";
            CHECK_THROWS_AS((void)load_sequence(to.runner.kv(), changed, path), Error);
            CHECK(to.runner.kv().bytes() == held);  // nothing half-loaded stays
        }
    }
}

TEST_CASE("saved caches: damage is found, wherever a byte is cut off") {
    const test::TemporaryDirectory directory;
    const std::string path = directory.file("cache.safetensors");
    Model model("llama-tied", "snapkv:budget=9,window=4");
    const SeqId seq = model.runner.kv().open();
    model.runner.prompt(seq, model.tokens(), 0, {});
    const KvFileHead head = KvFileHead::of("m", with_policy("snapkv:budget=9,window=4").kv, {1});
    save_sequence(model.runner.kv(), seq, head, path);
    const std::string whole = test::read_file(path);
    for (std::size_t size = 0; size < whole.size(); size += whole.size() / 40 + 1) {
        const std::string cut = directory.file("cut.safetensors");
        test::write_file(cut, whole.substr(0, size));
        CHECK_THROWS_AS((void)load_sequence(model.runner.kv(), head, cut), Error);
    }
}

TEST_CASE("shared caches: views read what one sequence of their texts would") {
    for (const char* name : {"llama-tied", "gemma3"}) {
        INFO(name);
        Model model(name, "full", Device::kRef);
        KvEngine& kv = model.runner.kv();
        const auto tokens = model.tokens();
        // One worker alone is ordinary decoding.
        const SeqId straight = kv.open(), common = kv.open(), own = kv.open();
        model.runner.forward(straight, tokens.first(10), 0, {});
        model.runner.forward(common, tokens.first(10), 0, {});
        for (std::size_t i = 10; i < 16; ++i) {
            const auto expected = model.next(straight, tokens[i]);
            const auto got = Model::read([&](const Runner::LogitsSink& sink) {
                model.runner.forward_shared({{common, own}}, tokens.subspan(i, 1), sink);
            });
            REQUIRE(got.size() == expected.size());
            for (std::size_t v = 0; v < got.size(); ++v)
                CHECK(std::abs(got[v] - expected[v]) < 1e-9);
        }
        CHECK(kv.tokens(own) == 6);
        // A block that moved behind another is read at its new place.
        const auto shared = [&](const std::vector<SeqId>& view) {
            const SeqId reader = kv.open();
            std::vector<SeqId> all = view;
            all.push_back(reader);
            const std::int32_t token = 11;
            const auto out = Model::read([&](const Runner::LogitsSink& sink) {
                model.runner.forward_shared({all}, {&token, 1}, sink);
            });
            kv.close(reader);
            return out;
        };
        const auto apart = shared({common, own});
        const auto plain = model.next(straight, 11);
        for (std::size_t v = 0; v < apart.size(); ++v) CHECK(std::abs(apart[v] - plain[v]) < 1e-9);
        kv.move_tokens(model.runner.exec(), own, common);
        CHECK(kv.tokens(own) == 0);
        CHECK(kv.tokens(common) == 16);
        const auto moved = shared({common});
        for (std::size_t v = 0; v < apart.size(); ++v) CHECK(std::abs(apart[v] - moved[v]) < 1e-4);
    }
}

TEST_CASE("shared caches: workers see each other in the same step, in any order") {
    Model model("llama-tied", "full");
    KvEngine& kv = model.runner.kv();
    const auto run = [&](bool swapped) {
        const SeqId common = kv.open(), a = kv.open(), b = kv.open();
        model.runner.forward(common, model.tokens().first(6), 0, {});
        std::vector<double> first, second;
        for (const std::int32_t token : {3, 8, 5}) {
            const std::vector<std::int32_t> tokens =
                swapped ? std::vector<std::int32_t>{token + 1, token}
                        : std::vector<std::int32_t>{token, token + 1};
            const std::vector<SeqId> of_a{common, b, a}, of_b{common, a, b};
            const auto views = swapped ? std::vector{of_b, of_a} : std::vector{of_a, of_b};
            const auto rows = Model::read([&](const Runner::LogitsSink& sink) {
                model.runner.forward_shared(views, tokens, sink);
            });
            const auto half = rows.begin() + std::ssize(rows) / 2;
            first.assign(rows.begin(), half), second.assign(half, rows.end());
        }
        if (swapped) std::swap(first, second);
        for (const SeqId seq : {common, a, b}) kv.close(seq);
        return std::pair(first, second);
    };
    const auto straight = run(false);
    CHECK(straight == run(true));
    CHECK(straight.first != straight.second);
    Model bounded("llama-tied", "h2o:budget=8");
    const SeqId seq = bounded.runner.kv().open();
    CHECK_THROWS_AS(bounded.runner.kv().begin_shared_step({{seq}}), Error);
}
