// SPDX-License-Identifier: Apache-2.0
// A text's cache that serves several questions against fresh caches; turns in pieces against whole
// conversations.
#include <doctest/doctest.h>

#include "core/error.h"
#include "eval/context_cache.h"
#include "eval/context_task.h"
#include "tests/support/golden_model.h"
#include "tests/support/runs.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::eval;

namespace {

std::vector<Token> tokens_from(int first, int count) {
    std::vector<Token> out;
    for (int i = 0; i < count; ++i) out.push_back(static_cast<Token>(2 + (first + 7 * i) % 80));
    return out;
}

std::vector<float> feed(Runner& runner, SeqId seq, const std::vector<Token>& tokens) {
    std::vector<float> out;
    runner.forward(seq, tokens, 1, [&](std::int64_t, View logits) {
        const auto* row = reinterpret_cast<const float*>(logits.data);
        out.assign(row, row + logits.cols);
    });
    return out;
}

// Logits of the last token after these have gone through an empty sequence, all but the last as
// prompts.
std::vector<float> fresh(Runner& runner, const std::vector<std::vector<Token>>& pieces) {
    const SeqId seq = runner.kv().open();
    for (std::size_t i = 0; i + 1 < pieces.size(); ++i) runner.prompt(seq, pieces[i], 0, {});
    const std::vector<float> out = feed(runner, seq, pieces.back());
    runner.kv().close(seq);
    return out;
}

const auto kAlways = [] { return true; };

struct Case {
    const char *model, *policy;
    bool forks, cuts;  // whether a long answer leaves the text in its place, without forks
};
constexpr Case kCases[] = {
    {"llama-tied", "full", true, true},
    {"llama-tied", "full", false, true},
    {"gemma3", "full", true, false},
    {"gemma3", "full", false, false},
    {"llama-tied", "streaming:sink=2,budget=4", true, false},
    {"llama-tied", "streaming:sink=2,budget=4", false, false},
    {"llama-tied", "snapkv:budget=12,window=4", true, true},
    {"llama-tied", "snapkv:budget=12,window=4", false, true},
    {"llama-tied", "h2o:budget=12", true, true},
};

}  // namespace

TEST_CASE("eval context: each question sees the text's cache as a fresh one, bit for bit") {
    const std::vector<Token> text = tokens_from(0, 30), first = tokens_from(11, 5),
                             second = tokens_from(40, 9), third = tokens_from(23, 2);
    for (const Case& one : kCases) {
        CAPTURE(std::string(one.model));
        CAPTURE(std::string(one.policy));
        CAPTURE(one.forks);
        RunnerOptions options;
        options.kv.context_tokens = 400;
        options.kv.policy = one.policy;
        Team team(2);
        Runner runner(ModelSource::open(test::golden_model(one.model).directory), options, team);
        ContextCache cache(runner, 7, one.forks);
        REQUIRE(cache.begin(text, kAlways));
        for (const auto& question : {first, second, first, third}) {
            REQUIRE(cache.branch(kAlways));
            CHECK(feed(runner, cache.sequence(), question) == fresh(runner, {text, question}));
        }
        CHECK(cache.fed_tokens() == 30);  // short questions: the text went through once

        // An answer so long that sliding windows lose the text: without forks it is fed again.
        REQUIRE(cache.branch(kAlways));
        (void)feed(runner, cache.sequence(), tokens_from(3, 250));
        REQUIRE(cache.branch(kAlways));
        CHECK(feed(runner, cache.sequence(), second) == fresh(runner, {text, second}));
        CHECK(cache.fed_tokens() == (one.forks || one.cuts ? 30 : 60));

        // Turns: what was answered is forgotten, what is said to be right stays.
        const std::vector<Token> answered = tokens_from(60, 4), right = tokens_from(70, 3);
        REQUIRE(cache.begin(text, kAlways));
        REQUIRE(cache.branch(kAlways));
        (void)feed(runner, cache.sequence(), answered);
        REQUIRE(cache.extend(first, kAlways));
        REQUIRE(cache.branch(kAlways));
        (void)feed(runner, cache.sequence(), answered);
        REQUIRE(cache.extend(right, kAlways));
        REQUIRE(cache.branch(kAlways));
        CHECK(feed(runner, cache.sequence(), second) ==
              fresh(runner, {text, first, right, second}));
        CHECK(cache.tokens().size() == 38);
    }
}

TEST_CASE("eval context: an interruption is heard between steps, and the cache can begin anew") {
    RunnerOptions options;
    options.kv.context_tokens = 64;
    Team team(1);
    Runner runner(ModelSource::open(test::golden_model("llama-tied").directory), options, team);
    ContextCache cache(runner, 8, true);
    int looks = 0;
    CHECK_FALSE(cache.begin(tokens_from(0, 40), [&] { return ++looks < 3; }));
    CHECK(cache.fed_tokens() == 16);
    REQUIRE(cache.begin(tokens_from(0, 10), {}));
    REQUIRE(cache.branch({}));
    CHECK(feed(runner, cache.sequence(), tokens_from(5, 3)) ==
          fresh(runner, {tokens_from(0, 10), tokens_from(5, 3)}));
}

TEST_CASE("eval context: questions have the same tokens in both modes, in the model's chat form") {
    test::TempDir scratch;
    const std::string path = scratch / "model.gguf";
    test::write_tiny_model(path, "gemma3-scaled");
    const auto source = ModelSource::open(path);
    const auto tokenizer = Tokenizer::open(source->file());
    ContextItem item;
    item.text = "some text";
    item.turns.push_back({.question = "what?", .gold = {{"that"}}, .most_tokens = 3});
    item.turns.push_back({.question = "who?", .gold = {{"x"}}, .most_tokens = 3});
    const auto joined = [](std::vector<Token> a, const std::vector<Token>& b) {
        a.insert(a.end(), b.begin(), b.end());
        return a;
    };
    const EncodedContext alone = encode_context(*tokenizer, "", item, false);
    const EncodedContext turns = encode_context(*tokenizer, "", item, true);
    CHECK(alone.text == turns.text);
    CHECK(alone.turns[0].question == turns.turns[0].question);
    // Each is what the whole conversation has.
    const auto chat = [&](std::vector<ChatMessage> messages) {
        return encode_chat(*tokenizer, "", messages, true);
    };
    CHECK(joined(alone.text, alone.turns[0].question) == chat({{"user", "some text\n\nwhat?"}}));
    CHECK(joined(alone.text, alone.turns[1].question) == chat({{"user", "some text\n\nwho?"}}));
    CHECK(joined(joined(turns.text, turns.turns[0].question), turns.turns[1].question) ==
          chat({{"user", "some text\n\nwhat?"}, {"assistant", "that"}, {"user", "who?"}}));

    // Plain text, where the model has no chat form or none is wanted.
    const EncodedContext plain = encode_context(*tokenizer, "none", item, true);
    CHECK(tokenizer->decode(
              joined(joined(plain.text, plain.turns[0].question), plain.turns[1].question)) ==
          "some text\n\nwhat?\nAnswer: that\n\nwho?\nAnswer:");
    CHECK_THROWS_AS((void)encode_context(*tokenizer, "nothing", item, true), Error);
}
