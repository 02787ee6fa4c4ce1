// SPDX-License-Identifier: Apache-2.0
// Questions about long texts, answered greedily: "SCBench: A KV Cache-Centric Analysis of
// Long-Context Methods" (2024). A text goes through the model once and its cache serves all its
// questions, in one of two modes: multi-request, each question alone after the text, or multi-turn,
// each after the text and the earlier questions with their right answers. A KV policy does not see
// a question before it drops keys of the text. The parts of a conversation are encoded apart and in
// the same form in both modes.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "eval/answers.h"
#include "eval/task.h"

namespace thimble::eval {

struct ContextTurn {
    std::string question = {};
    Gold gold = {};
    std::string shown = {};  // the answer as later turns have it; "": the first of gold
    Measure measure = Measure::kContains;
    std::int64_t most_tokens = 0;  // of the model's answer; 0: some more than `shown` has
    std::int64_t depth = -1;       // of what is asked for in the text, in percent; -1: none
    std::string part = {};         // the figure of its own that it counts for, too; "": none
};
struct ContextItem {
    std::string text;  // begins with no space
    std::vector<ContextTurn> turns;
    std::int64_t length = 0;  // tokens that were asked for; 0: as it is
};

// Tokens of a text as the task feeds it, with what its form puts before.
using CountTokens = std::function<std::int64_t(const std::string& text)>;
// Hands items over one after the other until `take` returns false.
using TakeContextItem = std::function<bool(const ContextItem& item, const std::string& where)>;
using ContextSource = std::function<void(const CountTokens& count, const TakeContextItem& take)>;

// What all such tasks have for options.
struct ContextOptions {
    std::string mode = "multi-request";
    std::string chat_template;
    void visit(OptionVisitor& v);
};
struct ContextTaskOptions {
    std::string kind;
    ContextOptions common;
    std::string file = {};     // "": the texts are made
    std::string options = {};  // for the record
};
[[nodiscard]] std::unique_ptr<Task> make_context_task(ContextTaskOptions options,
                                                      ContextSource source);

// An item as tokens.
struct EncodedTurn {
    std::vector<Token> question;  // after the text, or after the last turn's question
    std::int64_t most_tokens = 0;
};
struct EncodedContext {
    std::vector<Token> text;
    std::vector<EncodedTurn> turns;
};
// `form`: of the chat, "none": plain text, "": the model's own, plain where it has none.
[[nodiscard]] bool is_plain_context(const Tokenizer& tokenizer, std::string_view form);
// Tokens of the text, with what the form puts before it.
[[nodiscard]] std::int64_t context_text_tokens(const Tokenizer& tokenizer, std::string_view form,
                                               const std::string& text);
[[nodiscard]] EncodedContext encode_context(const Tokenizer& tokenizer, std::string_view form,
                                            const ContextItem& item, bool multi_turn);

}  // namespace thimble::eval
