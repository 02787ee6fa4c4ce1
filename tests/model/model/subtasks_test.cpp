// SPDX-License-Identifier: Apache-2.0
// Answers of whole models whose subtasks leave the cache, against the same computed without a
// cache: each token from the text that is left, read from its beginning.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "core/cpu.h"
#include "core/ledger.h"
#include "decode/session.h"
#include "kernels/cuda/stream.h"
#include "tests/support/golden_model.h"
#include "text/hf_export.h"

using namespace thimble;

namespace {

RunnerOptions runner_options(const std::string& policy, Device device, std::int64_t context) {
    RunnerOptions options;
    options.device = device;
    options.isa = best_isa();
    options.kv.policy = policy;
    options.kv.context_tokens = context;
    options.step_tokens = 8;
    return options;
}

// Every fourth token begins a subtask and every fourth ends one, so that models which write
// anything write many.
class Brackets final : public Tokenizer {
  public:
    [[nodiscard]] std::vector<Token> encode(std::string_view, const EncodeText&) const override {
        return {};
    }
    [[nodiscard]] std::string piece(Token token, bool) const override {
        if (token % of == of / 2) return ")";
        return token % of == 0 ? "(" : std::string(1, static_cast<char>('a' + token % 26));
    }
    [[nodiscard]] std::int64_t size() const noexcept override { return 96; }
    [[nodiscard]] Token bos() const noexcept override { return -1; }
    [[nodiscard]] Token eos() const noexcept override { return -1; }
    [[nodiscard]] bool is_end(Token) const noexcept override { return false; }
    [[nodiscard]] Token find(std::string_view) const noexcept override { return -1; }
    void write_vocabulary(Metadata&) const override {}
    [[nodiscard]] HfTokenizerFiles hf_files(std::int64_t) const override { return {}; }
    [[nodiscard]] const std::string& chat_template() const noexcept override { return none_; }

    int of = 4;

  private:
    std::string none_;
};

struct Model {
    explicit Model(const std::string& name, const std::string& policy = "full",
                   Device device = Device::kCpu, std::int64_t context = 512)
        : golden(test::golden_model(name)),
          runner(ModelSource::open(golden.directory), runner_options(policy, device, context),
                 team) {}
    [[nodiscard]] std::span<const Token> prompt() const { return golden.prompts[0].tokens; }

    const test::GoldenModel& golden;
    Team team{1};
    Runner runner;
    Brackets tokenizer;
};

GenerateOptions sampled(std::int64_t tokens, std::int64_t buffer) {
    GenerateOptions options;
    options.max_tokens = tokens;
    options.sampling.temperature = 2;
    options.sampling.repeat_penalty = 1.1;  // of what is left
    options.sampling.repeat_last = 8;
    options.subtasks.open = "(";
    options.subtasks.close = ")";
    options.subtasks.buffer = buffer;
    return options;
}

struct Answer {
    std::vector<Token> all, left;  // chosen; and with the prompt what is in the cache
    std::int64_t tails = 0;        // tokens that follow what goes, each time
    bool full = false;             // ended by the context
};

// Markers are single tokens here, so the rule is short: they pair up, a pair that ends swallows
// those in it, and the first of too many goes.
Answer without_cache(Model& model, const GenerateOptions& options, std::uint64_t seed) {
    Answer out;
    Sampler sampler(options.sampling, model.runner.spec().vocab, seed);
    const std::span<const Token> prompt = model.prompt();
    std::vector<bool> gone;
    std::vector<std::size_t> begun;
    std::vector<std::pair<std::size_t, std::size_t>> ended;
    const auto left = [&] {
        std::vector<Token> text(prompt.begin(), prompt.end());
        for (std::size_t i = 0; i < out.all.size(); ++i)
            if (!gone[i]) text.push_back(out.all[i]);
        return text;
    };
    for (;;) {
        out.left = left();
        const SeqId seq = model.runner.kv().open();
        Token next = -1;
        model.runner.prompt(seq, out.left, 1, [&](std::int64_t, View logits) {
            next = sampler.sample(logits, out.left, prompt.size() + out.all.size());
        });
        model.runner.kv().close(seq);
        out.all.push_back(next);
        gone.push_back(false);
        if (std::ssize(out.all) == options.max_tokens) return out;
        const std::size_t at = out.all.size() - 1;
        const std::string piece = model.tokenizer.piece(next, false);
        if (piece == options.subtasks.open) begun.push_back(at);
        if (piece == options.subtasks.close && !begun.empty()) {
            std::erase_if(ended, [&](const auto& pair) { return pair.first > begun.back(); });
            ended.emplace_back(begun.back(), at + 1);
            begun.pop_back();
        }
        if (std::ssize(ended) > options.subtasks.buffer) {
            std::fill(gone.begin() + std::ptrdiff_t(ended[0].first),
                      gone.begin() + std::ptrdiff_t(ended[0].second), true);
            // Counted as tokens that are fed again; the newest was not fed before, but one has to.
            const auto tail =
                std::count(gone.begin() + std::ptrdiff_t(ended[0].second), gone.end(), false);
            out.tails += tail > 0 ? tail - 1 : 1;
            ended.erase(ended.begin());
        }
        if (std::ssize(left()) > model.runner.kv().capacity_tokens()) return out.full = true, out;
    }
}

std::string text_of(const Model& model, std::span<const Token> tokens) {
    std::string text;
    for (const Token token : tokens) text += model.tokenizer.piece(token, false);
    return text;
}

std::vector<double> next_logits(Runner& runner, SeqId seq, std::span<const Token> tokens) {
    std::vector<double> out;
    runner.forward(seq, tokens, 1, [&](std::int64_t, View row) {
        for (std::int64_t i = 0; i < row.cols; ++i)
            out.push_back(row.dtype == DType::kF64 ? row.row<double>(0)[i]
                                                   : double{row.row<float>(0)[i]});
    });
    return out;
}

// The session's sequence is, in bytes and in what it predicts, one that only read the tokens left.
void check_sequence(Model& model, const Session& session) {
    KvEngine& kv = model.runner.kv();
    const SeqId fresh = kv.open();
    (void)next_logits(model.runner, fresh, session.tokens());
    CHECK(kv.tokens(session.sequence()) == std::ssize(session.tokens()));
    CHECK(!kv.in_prompt(session.sequence()));
    CHECK(kv.bytes(session.sequence()) == kv.bytes(fresh));
    CHECK(kv.bytes() == 2 * kv.bytes(fresh));
    CHECK(Ledger::process().current_bytes(Tier::kRam, Purpose::kKv) == kv.bytes());
    const std::vector<Token> probe{11, 7};
    const std::int64_t room = std::min(kv.tokens(fresh), kv.capacity_tokens() - 2);
    for (const SeqId seq : {fresh, session.sequence()}) kv.truncate(seq, room);
    const auto got = next_logits(model.runner, session.sequence(), probe);
    const auto expected = next_logits(model.runner, fresh, probe);
    if (model.runner.exec().device == Device::kCpu) {
        CHECK(got == expected);
    } else {
        REQUIRE(got.size() == expected.size());
        for (std::size_t i = 0; i < got.size(); ++i)
            CHECK(std::abs(got[i] - expected[i]) <= 1e-12 * std::max(1.0, std::abs(expected[i])));
    }
    kv.close(fresh);
}

struct Pruned {
    GenerateStats stats;
    Answer reference;
};

Pruned check_answer(Model& model, const GenerateOptions& options, std::uint64_t seed) {
    Pruned out{{}, without_cache(model, options, seed)};
    Session session(model.runner, model.tokenizer, options, seed);
    std::string text;
    GenerateHooks hooks;
    hooks.text = [&](std::string_view piece) { text += piece; };
    out.stats = session.generate(model.prompt(), hooks);
    CHECK(text == text_of(model, out.reference.all));
    CHECK(session.tokens() == out.reference.left);
    CHECK(out.stats.generated_tokens == std::ssize(out.reference.all));
    CHECK(out.stats.pruned_tokens == std::ssize(model.prompt()) + std::ssize(out.reference.all) -
                                         1 - std::ssize(out.reference.left));
    CHECK((out.stats.reason == StopReason::kContext) == out.reference.full);
    std::vector<Token> left = out.reference.left;
    left.erase(left.begin(), left.begin() + std::ssize(model.prompt()));
    left.push_back(out.reference.all.back());
    CHECK(without(text, out.stats.pruned_text) == text_of(model, left));
    check_sequence(model, session);
    return out;
}

}  // namespace

TEST_CASE("subtasks: an answer is what it would be if its subtasks had never been in the cache") {
    for (const char* name : {"llama-tied", "gemma3"}) {
        for (const char* policy : {"full", "streaming:sink=2,budget=24"}) {
            Model model(name, policy);
            for (const std::int64_t buffer : {0, 1, 2}) {
                INFO(name, ' ', policy, ' ', buffer);
                const Pruned pruned =
                    check_answer(model, sampled(120, buffer), 3 + std::uint64_t(buffer));
                CHECK(pruned.stats.pruned_subtasks > 2);
                CHECK(pruned.stats.reread_tokens == pruned.reference.tails);
            }
        }
    }
}

TEST_CASE("subtasks: the same in double precision") {
    for (const char* name : {"llama-tied", "gemma3"}) {
        Model model(name, "full", Device::kRef);
        CHECK(check_answer(model, sampled(40, 1), 1).stats.pruned_subtasks > 1);
    }
}

TEST_CASE("subtasks: where windows cannot be turned back the sequence is read anew") {
    // Rings of 192 slots turn over in the course of this answer.
    Model model("gemma3");
    model.tokenizer.of = 16;
    const Pruned pruned = check_answer(model, sampled(420, 3), 2);
    CHECK(pruned.stats.pruned_subtasks > 2);
    CHECK(pruned.stats.most_held_tokens > 192);
    CHECK(pruned.stats.reread_tokens > pruned.reference.tails);
}

TEST_CASE("subtasks: an answer goes on past the context until what is left fills it") {
    Model model("llama-tied", "full", Device::kCpu, 48);
    const Pruned longer = check_answer(model, sampled(150, 0), 4);
    CHECK(longer.stats.generated_tokens > 48);
    CHECK(longer.stats.most_held_tokens <= 48);
    const Pruned full = check_answer(model, sampled(4000, 3), 1);
    CHECK(full.stats.reason == StopReason::kContext);
    CHECK(full.stats.most_held_tokens == 48);
}

TEST_CASE("subtasks: a buffer without end prunes nothing, and an answer may be interrupted") {
    Model model("llama-tied");
    const auto answer = [&](const GenerateOptions& options, std::int64_t tokens) {
        Session session(model.runner, model.tokenizer, options, 5);
        std::int64_t asked = 0;
        GenerateHooks hooks;
        hooks.interrupted = [&] { return ++asked == tokens; };
        const GenerateStats stats = session.generate(model.prompt(), hooks);
        CHECK((stats.reason == StopReason::kInterrupted) == (tokens <= 40));
        std::vector<Token> left = session.tokens();
        check_sequence(model, session);
        return std::pair(left, stats.pruned_tokens);
    };
    GenerateOptions plain = sampled(100, 1);
    plain.subtasks = {};
    CHECK(answer(sampled(100, 1000), 100) == answer(plain, 100));
    std::int64_t pruned = 0;
    for (std::int64_t tokens = 1; tokens <= 40; ++tokens)
        pruned += answer(sampled(100, 0), tokens).second;
    CHECK(pruned > 40);
}

TEST_CASE("subtasks: keys on a CUDA device are taken back as well" *
          doctest::skip(std::string_view(cuda::build_kind()) == "none")) {
    const auto check = [](const char* name, double penalty) {
        GenerateOptions options = sampled(40, 0);
        options.sampling.repeat_penalty = penalty;
        Model host(name), device(name, "full", Device::kCuda);
        Session session(device.runner, device.tokenizer, options, 3);
        const GenerateStats stats = session.generate(device.prompt(), {});
        CHECK(session.tokens() == without_cache(host, options, 3).left);
        CHECK(stats.pruned_subtasks > 2);
    };
    check("llama-tied", 1.0);  // where nothing is penalised, the device finds the largest logits
    check("gemma3", 1.1);
}
