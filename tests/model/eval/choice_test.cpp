// SPDX-License-Identifier: Apache-2.0
// Choices scored with a shared context against each choice scored by itself from all logits.
#include <doctest/doctest.h>

#include <cmath>

#include "core/error.h"
#include "eval/choice.h"
#include "tests/support/golden_model.h"
#include "tests/support/runs.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::eval;

namespace {

double log_probability(const std::vector<double>& logits, std::size_t vocab, std::size_t row,
                       Token target) {
    double sum = 0;
    for (std::size_t i = 0; i < vocab; ++i) sum += std::exp(logits[row * vocab + i]);
    return logits[row * vocab + static_cast<std::size_t>(target)] - std::log(sum);
}

EncodedChoices item_of(std::vector<std::vector<Token>> tokens, std::int64_t start,
                       std::int64_t common) {
    EncodedChoices item;
    item.tokens = std::move(tokens);
    item.start = start;
    item.common = common;
    return item;
}

RunnerOptions options_for(const std::string& policy) {
    RunnerOptions options;
    options.kv.context_tokens = 128;
    options.kv.policy = policy;
    return options;
}

}  // namespace

TEST_CASE("eval choice: scores with a shared context equal each choice's own") {
    const std::vector<EncodedChoices> items = {
        item_of({{1, 7, 9, 11, 20, 21}, {1, 7, 9, 11, 30}, {1, 7, 9, 11, 20, 22, 23}}, 4, 4),
        // Choices that share their first token, a context that shares tokens with the last item's.
        item_of({{1, 7, 9, 40, 41, 42}, {1, 7, 9, 40, 43}}, 3, 4),
        // Choices whose tokens differ before the context's end.
        item_of({{1, 50, 51, 52}, {1, 50, 60, 61, 62}}, 3, 2),
        item_of({{5, 6}, {5, 7}}, 1, 1),
    };
    for (const char* name : {"llama-tied", "gemma3"}) {
        for (const char* policy : {"full", "streaming:sink=2,budget=4"}) {
            CAPTURE(name);
            CAPTURE(policy);
            Team team(2);
            Runner runner(ModelSource::open(test::golden_model(name).directory),
                          options_for(policy), team);
            const auto vocab = static_cast<std::size_t>(runner.spec().vocab);
            ChoiceScorer scorer(runner);
            for (const EncodedChoices& item : items) {
                const ChoiceScores scores = scorer.score(item);
                for (std::size_t c = 0; c < item.tokens.size(); ++c) {
                    const std::vector<Token>& tokens = item.tokens[c];
                    const auto logits = test::all_logits(runner, tokens);
                    double sum = 0, mean = 0;
                    for (std::size_t t = 1; t < tokens.size(); ++t) {
                        const double lp = log_probability(logits, vocab, t - 1, tokens[t]);
                        const auto at = static_cast<std::int64_t>(t);
                        if (at >= item.start) sum += lp;
                        if (at >= item.common) mean += lp;
                    }
                    mean /= static_cast<double>(std::ssize(tokens) - item.common);
                    CHECK(scores.sums[c] == doctest::Approx(sum).epsilon(1e-9));
                    CHECK(scores.means[c] == doctest::Approx(mean).epsilon(1e-9));
                }
            }
        }
    }
}

TEST_CASE("eval choice: sliding windows that lost the shared context are filled again") {
    test::TempDir scratch;
    Team team(1);
    Runner runner(ModelSource::open(test::golden_model("gemma3").directory), options_for("full"),
                  team);
    const auto vocab = static_cast<std::size_t>(runner.spec().vocab);
    std::vector<Token> context, longest;
    for (int i = 0; i < 20; ++i) context.push_back(static_cast<Token>(2 + i * 3 % 50));
    longest = context;
    for (int i = 0; i < 90; ++i) longest.push_back(static_cast<Token>(2 + i * 7 % 50));
    std::vector<Token> shorter = context;
    shorter.insert(shorter.end(), {60, 61});
    const ChoiceScores scores = ChoiceScorer(runner).score(item_of({longest, shorter}, 20, 20));
    const auto logits = test::all_logits(runner, shorter);
    CHECK(scores.sums[1] == doctest::Approx(log_probability(logits, vocab, 19, 60) +
                                            log_probability(logits, vocab, 20, 61))
                                .epsilon(1e-9));
}

TEST_CASE("eval choice: tokens of context and choices") {
    test::TempDir scratch;
    const std::string path = scratch / "tiny.gguf";
    test::write_tiny_model(path, "llama-tied");
    const auto source = ModelSource::open(path);
    const auto tokenizer = Tokenizer::open(source->file());
    const ChoiceItem item = {"the sky  ", {"is blue", "is r\xc3\xa9"}, 1};
    bool cut = true;
    const EncodedChoices one = encode_choices(*tokenizer, item, " ", 1000, cut);
    CHECK_FALSE(cut);
    const auto plain = tokenizer->encode("the sky", {});
    CHECK(one.start == std::ssize(plain));
    CHECK(one.tokens[0] == tokenizer->encode("the sky   is blue", {}));
    CHECK(one.common > one.start);
    CHECK(one.characters == std::vector<double>{7, 5});
    CHECK(one.bytes == std::vector<double>{7, 6});
    CHECK(one.answer == 1);

    const EncodedChoices shot = encode_choices(
        *tokenizer, {"x y\n\n" + item.context, item.choices, item.answer}, " ", 1000, cut);
    CHECK(shot.tokens[0] == tokenizer->encode("x y\n\nthe sky   is blue", {}));

    const std::int64_t longest = std::ssize(one.tokens[0]) - 3;
    const EncodedChoices less = encode_choices(*tokenizer, item, " ", longest, cut);
    CHECK(cut);
    CHECK(std::ssize(less.tokens[0]) - 1 == longest);
    CHECK(less.start == one.start - 2);
    CHECK(less.tokens[0].back() == one.tokens[0].back());

    const EncodedChoices bare = encode_choices(*tokenizer, {"", {"a", "b"}, 0}, "", 9, cut);
    CHECK(bare.start == 1);
    CHECK(bare.tokens[0].size() >= 2);
}
