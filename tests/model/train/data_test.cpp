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
    const char* form;
    const char* end;  // of a turn
    bool trims;
};
constexpr RealModel kModels[] = {{test::kSmolLm2, "", "<|im_end|>", false},
                                 {test::kGemma3, "gemma", "<end_of_turn>", true}};

Json message(const std::string& role, const std::string& content) {
    Json json = Json::object();
    json.set("role", role);
    json.set("content", content);
    return json;
}

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
        DataOptions options;
        options.chat_template = model.form;
        const SampleEncoder encoder(options, *tokenizer);
        for (const std::string& answer : answers) {
            CAPTURE(answer);
            Json record = Json::object();
            record.set("prompt", Json(JsonArray{message("user", "Q: " + answer + "?")}));
            record.set("completion", Json(JsonArray{message("assistant", answer)}));
            const TrainingSample sample = encoder.encode(record, SampleForm::kCompletion, "f:1");
            const std::vector<ChatMessage> messages = {{"user", "Q: " + answer + "?"},
                                                       {"assistant", answer}};
            CHECK(tokenizer->decode(sample.tokens, true) ==
                  render_chat(*tokenizer, model.form, messages, false));
            const auto given =
                encode_chat(*tokenizer, model.form, std::span(messages).first(1), true);
            REQUIRE(given.size() < sample.tokens.size());
            CHECK(std::equal(given.begin(), given.end(), sample.tokens.begin()));
            CHECK(std::count(sample.is_target.begin(), sample.is_target.begin() + std::ssize(given),
                             1) == 0);
            CHECK(test::learnt(*tokenizer, sample) ==
                  (model.trims ? trimmed(answer) : answer) + model.end);
            std::size_t last = sample.tokens.size() - 1;
            while (sample.is_target[last] == 0) --last;
            CHECK(tokenizer->is_end(sample.tokens[last]));
        }
    }
}

TEST_CASE("training data: real vocabularies, the documents of a text are its text") {
    for (const RealModel& model : kModels) {
        const auto path = test::real_model(model.file);
        if (!path) continue;
        const auto tokenizer = Tokenizer::open(*ModelFile::open(*path));
        const std::string text = test::slurp(std::string(THIMBLE_SOURCE_DIR) + "/LICENSE");
        test::TempDir scratch;
        test::spew(scratch / "t.txt", text);
        DataOptions options;
        options.train = {scratch / "t.txt"};
        options.context_tokens = 64;
        options.parse_special = false;
        options.shuffle = false;
        const DataSet data(options, options.train, *tokenizer);
        std::size_t at = 0;
        std::int64_t gaps = 0;
        for (std::int64_t i = 0; i < data.size(); ++i) {
            const TrainingSample sample = data.read(i);
            CHECK(sample.tokens.size() <= 64);
            const bool begins = model.trims && sample.tokens[0] == tokenizer->bos();
            CHECK(begins == model.trims);  // Gemma begins texts with BOS
            const bool ends = i + 1 == data.size();
            CHECK((sample.tokens.back() == tokenizer->eos()) == ends);
            const std::string piece = tokenizer->decode(
                std::span(sample.tokens)
                    .subspan(begins ? 1 : 0, sample.tokens.size() - begins - ends),
                true);
            const std::size_t found = text.find(piece, at);
            REQUIRE(found != std::string::npos);
            gaps += found != at ? 1 : 0;
            at = found + piece.size();
        }
        CHECK(at + 1 == text.size());
        CHECK(gaps == data.counts().without_targets);  // pieces of one token
    }
}
