// SPDX-License-Identifier: Apache-2.0
#include "train/data/sample.h"

#include <doctest/doctest.h>

#include "tests/unit/train/data_support.h"

using namespace thimble;
using namespace thimble::train;
using test::data_tokenizer;
using test::error_of;
using test::learnt;

namespace {

TrainingSample sample_of(const Tokenizer& tokenizer, const std::string& line,
                         const DataOptions& options = {}) {
    const Json record = parse_json(line, "f:7");
    return SampleEncoder(options, tokenizer).encode(record, sample_form(record, "f:7"), "f:7");
}

std::string fault(const std::string& line, const DataOptions& options = {}) {
    const auto tokenizer = data_tokenizer(test::kChatml);
    return error_of([&] { (void)sample_of(*tokenizer, line, options); });
}

const char* const kTalk =
    R"({"id": 3, "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "ab?"},
        {"role": "assistant", "content": "Yes.\n"}, {"role": "user", "content": "Why"},
        {"role": "assistant", "content": "ab"}]})";

}  // namespace

TEST_CASE("training data: of a chat the assistant's turns are learnt, with their end") {
    struct Case {
        const char* form;
        const char* learnt;
    };
    for (const Case& c : {Case{test::kChatml, "Yes.\n<|im_end|>ab<|im_end|>"},
                          Case{test::kGemma, "Yes.<end_of_turn>ab<end_of_turn>"},
                          Case{test::kLlama3, "Yes.<|eot_id|>ab<|eot_id|>"}}) {
        CAPTURE(c.form);
        const auto tokenizer = data_tokenizer(c.form);
        const TrainingSample sample = sample_of(*tokenizer, kTalk);
        CHECK(learnt(*tokenizer, sample) == c.learnt);
        const std::vector<ChatMessage> messages = {{"system", "S"},
                                                   {"user", "ab?"},
                                                   {"assistant", "Yes.\n"},
                                                   {"user", "Why"},
                                                   {"assistant", "ab"}};
        CHECK(sample.tokens == encode_chat(*tokenizer, "", messages, false));
        // What comes before an answer is what the model is given to answer.
        const auto given = encode_chat(*tokenizer, "", std::span(messages).first(4), true);
        REQUIRE(given.size() < sample.tokens.size());
        CHECK(std::equal(given.begin(), given.end(), sample.tokens.begin()));
        CHECK(sample.is_target[given.size()] == 1);
        CHECK(sample.is_target[given.size() - 1] == 0);
        DataOptions all;
        all.mask_prompt = false;
        CHECK(sample_of(*tokenizer, kTalk, all).targets() == std::ssize(sample.tokens) - 1);
    }
}

TEST_CASE("training data: no token reaches from a header into an answer") {
    const auto tokenizer = data_tokenizer(test::kChatml);
    const std::vector<ChatMessage> messages = {
        {"user", "\n\n<|im_end|>"}, {"assistant", "\n\nab"}, {"user", "y"}, {"assistant", "\n\n"}};
    Json list = Json::array();
    for (const ChatMessage& message : messages) {
        Json json = Json::object();
        json.set("role", message.role);
        json.set("content", message.content);
        list.push(json);
    }
    Json record = Json::object();
    record.set("messages", list);
    const TrainingSample sample =
        SampleEncoder({}, *tokenizer).encode(record, SampleForm::kMessages, "f:1");
    CHECK(learnt(*tokenizer, sample) == "\n\nab<|im_end|>\n\n<|im_end|>");
    CHECK(tokenizer->decode(sample.tokens, true) == render_chat(*tokenizer, "", messages, false));
    for (const std::size_t turns : {1u, 3u}) {
        // Of what is given, as it is in the sample.
        const std::string given =
            render_chat(*tokenizer, "", std::span(messages).first(turns), true);
        std::size_t tokens = 0;
        std::string text;
        while (text.size() < given.size()) text += tokenizer->piece(sample.tokens[tokens++], true);
        CHECK(text == given);
        CHECK(sample.is_target[tokens] == 1);
        CHECK(sample.is_target[tokens - 1] == 0);
        CHECK(sample.tokens[tokens - 1] == '\n');
    }
    CHECK(std::count(sample.tokens.begin(), sample.tokens.end(), tokenizer->find("<|im_end|>")) ==
          4);
    // Joined, the header's line end and the first of the answer would be one token.
    const auto joined = encode_chat(*tokenizer, "", messages, false);
    CHECK(joined.size() != sample.tokens.size());
}

TEST_CASE("training data: an answer cannot end its turn by spelling the mark") {
    const auto tokenizer = data_tokenizer(test::kChatml);
    const TrainingSample sample =
        sample_of(*tokenizer, R"({"messages": [{"role": "user", "content": "x"},
                                    {"role": "assistant", "content": "a<|im_end|>b"}]})");
    CHECK(learnt(*tokenizer, sample) == "a<|im_end|>b<|im_end|>");
    CHECK(std::count(sample.tokens.begin(), sample.tokens.end(), tokenizer->find("<|im_end|>")) ==
          2);
}

TEST_CASE("training data: ShareGPT, instructions and lists of messages are chats, too") {
    const auto tokenizer = data_tokenizer(test::kChatml);
    const TrainingSample plain =
        sample_of(*tokenizer, R"({"messages": [{"role": "user", "content": "Do\nit"},
                                    {"role": "assistant", "content": "Done"}]})");
    for (
        const char* line :
        {R"({"conversations": [{"from": "human", "value": "Do\nit"}, {"from": "gpt", "value": "Done"}]})",
         R"({"instruction": "Do", "input": "it", "output": "Done"})",
         R"({"instruction": "Do\nit", "input": "", "output": "Done", "system": ""})",
         R"({"prompt": [{"role": "user", "content": "Do\nit"}],
              "completion": [{"role": "assistant", "content": "Done"}]})"}) {
        CAPTURE(line);
        const TrainingSample sample = sample_of(*tokenizer, line);
        CHECK(sample.tokens == plain.tokens);
        CHECK(sample.is_target == plain.is_target);
    }
    const TrainingSample system =
        sample_of(*tokenizer, R"({"instruction": "Do", "output": "Done", "system": "Be"})");
    CHECK(tokenizer->decode(system.tokens, true).starts_with("<|im_start|>system\nBe<|im_end|>"));
}

TEST_CASE("training data: earlier turns of a list prompt and turns of weight 0 are not learnt") {
    const auto tokenizer = data_tokenizer(test::kChatml);
    CHECK(learnt(*tokenizer, sample_of(*tokenizer, R"({"prompt": [
              {"role": "user", "content": "1"}, {"role": "assistant", "content": "2"},
              {"role": "user", "content": "3"}], "completion": [
              {"role": "assistant", "content": "4"}]})")) == "4<|im_end|>");
    CHECK(learnt(*tokenizer, sample_of(*tokenizer, R"({"messages": [
              {"role": "user", "content": "1"}, {"role": "assistant", "content": "2", "weight": 0},
              {"role": "user", "content": "3"}, {"role": "assistant", "content": "4", "weight": 1}
              ]})")) == "4<|im_end|>");
}

TEST_CASE("training data: a completion is learnt with its EOS, a prompt is not") {
    for (const bool bos : {false, true}) {
        CAPTURE(bos);
        const auto tokenizer = data_tokenizer("", bos);
        const auto learnt_of = [&](const char* line, DataOptions options = {}) {
            return learnt(*tokenizer, sample_of(*tokenizer, line, options));
        };
        CHECK(learnt_of(R"({"prompt": "2+2=", "completion": "4"})") == "4</s>");
        CHECK(learnt_of(R"({"prompt": "2+2=", "completion": "4</s>"})") == "4</s>");
        DataOptions options;
        options.add_eos = false;
        CHECK(learnt_of(R"({"prompt": "2+2=", "completion": "4"})", options) == "4");
        options.mask_prompt = false;
        CHECK(learnt_of(R"({"prompt": "2+2=", "completion": "4"})", options) ==
              (bos ? "2+2=4" : "+2=4"));
    }
}

TEST_CASE("training data: a prompt keeps its tokens whatever the completion begins with") {
    const auto tokenizer = data_tokenizer("");
    // Joined, "a" and "b" would be one token.
    const TrainingSample cut = sample_of(*tokenizer, R"({"prompt": "xa", "completion": "bc"})");
    CHECK(cut.tokens == std::vector<Token>{'x', 'a', 'b', 'c', 257});
    CHECK(cut.is_target == std::vector<std::uint8_t>{0, 0, 1, 1, 1});
    const TrainingSample joined = sample_of(*tokenizer, R"({"prompt": "x", "completion": "ab"})");
    CHECK(joined.tokens == std::vector<Token>{'x', tokenizer->find("ab"), 257});
}

TEST_CASE("training data: a SentencePiece completion gets no space that the joined text lacks") {
    Metadata metadata = test::tiny_scored({"\u2581", "x", "\u2581x", "y", "\u2581y"});
    metadata.set("tokenizer.ggml.add_space_prefix", true);
    const auto tokenizer = tokenizer_from_metadata(metadata);
    const TrainingSample sample = sample_of(*tokenizer, R"({"prompt": "x", "completion": "y"})");
    CHECK(tokenizer->decode(sample.tokens, true) == "<s> xy</s>");
    CHECK(learnt(*tokenizer, sample) == "y</s>");
}

TEST_CASE("training data: a text is learnt but for its first token, and ends with one EOS") {
    const auto plain = data_tokenizer("");
    CHECK(learnt(*plain, sample_of(*plain, R"({"text": "hello"})")) == "ello</s>");
    CHECK(learnt(*plain, sample_of(*plain, R"({"text": "hello</s>"})")) == "ello</s>");
    const auto bos = data_tokenizer("", true);
    const TrainingSample once = sample_of(*bos, R"({"text": "<s>hello"})");
    CHECK(once.tokens.front() == 256);
    CHECK(learnt(*bos, once) == "hello</s>");  // not <s> twice
    DataOptions literal;
    literal.parse_special = false;
    CHECK(learnt(*bos, sample_of(*bos, R"({"text": "<s>"})", literal)) == "<s></s>");
    CHECK(sample_of(*bos, R"({"text": "<s>"})", literal).tokens.size() == 5);
    const auto without = data_tokenizer("", false, false);
    CHECK(error_of([&] { (void)sample_of(*without, R"({"text": "hello"})"); }) ==
          "2: --add-eos: the model's vocabulary has no EOS token (give --no-add-eos)");
}

TEST_CASE("training data: what a line lacks is said with file, line and remedy") {
    CHECK(fault("[]") == "65: f:7: a record is an object");
    CHECK(fault(R"({"txt": "x"})").find("65: f:7: has none of the known forms (a record has") == 0);
    CHECK(fault(R"({"prompt": "x"})").find("65: f:7: has none of the known forms") == 0);
    CHECK(fault(R"({"text": 3})") == "65: f:7: 'text' must be a text");
    CHECK(fault(R"({"text": ""})") == "65: f:7: 'text' is empty (remove the line)");
    CHECK(fault(R"({"messages": []})") == "65: f:7: 'messages' must be a list of messages");
    CHECK(fault(R"({"messages": {"role": "user"}})") ==
          "65: f:7: 'messages' must be a list of messages");
    CHECK(fault(R"({"messages": ["x"]})") == "65: f:7: a message is an object");
    CHECK(fault(R"({"messages": [{"role": "user"}]})") == "65: f:7: 'content' must be a text");
    CHECK(fault(R"({"messages": [{"role": "user", "content": "x"}]})") ==
          "65: f:7: has nothing to learn (it needs an answer, or --no-mask-prompt)");
    CHECK(fault(R"({"prompt": "x", "completion": ""})") ==
          "65: f:7: 'completion' is empty (remove the line)");
    CHECK(fault(R"({"prompt": [{"role": "user", "content": "x"}], "completion": "y"})") ==
          "65: f:7: 'prompt' is a list of messages and 'completion' is none");
    CHECK(fault(R"({"messages": [{"role": "user", "content": "x"}], "tools": [{}]})")
              .find("65: f:7: has 'tools'") == 0);
    CHECK(fault(R"({"messages": [{"role": "assistant", "content": "x", "weight": 0.5}]})") ==
          "65: f:7: 'weight' must be 0 or 1");
    DataOptions options;
    options.add_eos = false;
    CHECK(fault(R"({"text": "x"})", options) ==
          "65: f:7: has nothing to learn (it needs two tokens or more; remove the line)");
}

TEST_CASE("training data: roles that a template lacks are the line's fault, no template is not") {
    const auto gemma = data_tokenizer(test::kGemma);
    CHECK(error_of([&] {
              (void)sample_of(*gemma, R"({"messages": [{"role": "assistant", "content": "x"}]})");
          }).find("65: f:7: turn 1 has the role 'assistant'") == 0);
    const auto none = data_tokenizer("");
    CHECK(error_of([&] {
              (void)sample_of(*none, kTalk);
          }).find("2: --chat-template: the model has no chat template") == 0);
}

TEST_CASE("training data: turns are found in a vocabulary that puts a space before a text") {
    Metadata metadata = test::tiny_scored({"\u2581", "Y", "\u2581Y"});
    metadata.set("tokenizer.ggml.add_space_prefix", true);
    const auto tokenizer = tokenizer_from_metadata(metadata);
    DataOptions options;
    options.chat_template = "zephyr";
    const TrainingSample sample =
        sample_of(*tokenizer, R"({"messages": [{"role": "user", "content": "Y"},
                                    {"role": "assistant", "content": "Y Y"}]})",
                  options);
    // One before each text between special tokens.
    CHECK(tokenizer->decode(sample.tokens, true) == "<|user|>\nY</s> \n<|assistant|>\nY Y</s> \n");
    CHECK(learnt(*tokenizer, sample) == "Y Y</s>");
}
