// SPDX-License-Identifier: Apache-2.0
// Training data through the real models' tokenizers and chat templates.
#include <doctest/doctest.h>

#include "tests/support/models.h"
#include "tests/unit/train/data_support.h"
#include "train/data/batch_stream.h"

using namespace thimble;
using namespace thimble::train;

namespace {

struct RealModel {
    const char* file;
    const char* end;  // of a turn
    bool trims;
};
constexpr RealModel kModels[] = {{test::kSmolLm2, "<|im_end|>", false},
                                 {test::kGemma3, "<end_of_turn>", true}};

std::string trimmed(const std::string& text) {
    const std::size_t begin = text.find_first_not_of(" \n");
    return text.substr(begin, text.find_last_not_of(" \n") + 1 - begin);
}

}  // namespace

TEST_CASE("training data: real templates, what precedes an answer is what the model is asked") {
    const std::vector<std::string> answers = {"Yes.",
                                              "ab  ",
                                              "  indented\n  twice",
                                              "12 + 3.4e5",
                                              "\u00fcber \U0001f600",
                                              "a<|im_end|>b",
                                              "{\n\t\"k\": 1\n}",
                                              "<end_of_turn>",
                                              "x\n\n\n"};
    for (const RealModel& model : kModels) {
        const auto path = test::real_model(model.file);
        if (!path) continue;
        const auto tokenizer = Tokenizer::open(*ModelFile::open(*path));
        const SampleEncoder encoder(DataOptions{}, *tokenizer);
        std::vector<ChatMessage> messages;
        Json list = Json::array();
        for (const std::string& answer : answers) {
            for (const ChatMessage& message :
                 {ChatMessage{"user", "Q: " + answer + "?"}, ChatMessage{"assistant", answer}}) {
                Json json = Json::object();
                json.set("role", message.role);
                json.set("content", message.content);
                list.push(std::move(json));
                messages.push_back(message);
            }
        }
        Json record = Json::object();
        record.set("messages", list);
        const TrainingSample sample = encoder.encode(record, SampleForm::kMessages, "f:1");
        CHECK(sample.tokens == encode_chat(*tokenizer, "", messages, false));
        std::size_t learnt = 0;
        for (std::size_t i = 0; i < answers.size(); ++i) {
            CAPTURE(answers[i]);
            const auto given =
                encode_chat(*tokenizer, "", std::span(messages).first(2 * i + 1), true);
            REQUIRE(given.size() < sample.tokens.size());
            CHECK(std::equal(given.begin(), given.end(), sample.tokens.begin()));
            CHECK(sample.is_target[given.size() - 1] == 0);
            std::vector<Token> turn;
            for (std::size_t t = given.size(); sample.is_target[t] != 0; ++t)
                turn.push_back(sample.tokens[t]);
            learnt += turn.size();
            CHECK(tokenizer->decode(turn, true) ==
                  (model.trims ? trimmed(answers[i]) : answers[i]) + model.end);
            REQUIRE_FALSE(turn.empty());
            CHECK(tokenizer->is_end(turn.back()));
        }
        CHECK(learnt == static_cast<std::size_t>(sample.targets()));
    }
}

TEST_CASE("training data: real vocabularies, the documents of a text are its text") {
    for (const RealModel& model : kModels) {
        const auto path = test::real_model(model.file);
        if (!path) continue;
        const auto tokenizer = Tokenizer::open(*ModelFile::open(*path));
        const std::string text =
            test::slurp(std::string(THIMBLE_TESTS_DIR) + "/golden/text/lines.txt");
        test::TempDir scratch;
        test::spew(scratch / "t.txt", text);
        DataOptions options;
        options.train = {scratch / "t.txt"};
        options.context_tokens = 64;
        options.shuffle = false;
        const DataSet data(options, options.train, *tokenizer);
        std::string joined;
        for (std::int64_t i = 0; i < data.size(); ++i) {
            const TrainingSample sample = data.read(i);
            CHECK(sample.tokens.size() <= 64);
            const bool begins = sample.tokens[0] == tokenizer->bos() && model.trims;
            CHECK(begins == model.trims);  // Gemma begins texts with BOS
            const bool ends = i + 1 == data.size();
            CHECK((sample.tokens.back() == tokenizer->eos()) == ends);
            joined += tokenizer->decode(
                std::span(sample.tokens)
                    .subspan(begins ? 1 : 0, sample.tokens.size() - begins - ends),
                true);
        }
        CHECK(joined + "\n" == text);
    }
}
