// SPDX-License-Identifier: Apache-2.0
// Multiple choice by log-likelihood, as lm-evaluation-harness defines it: each choice is appended
// to the context, the log-probabilities of its tokens are summed, and the largest sum wins (acc);
// or the largest sum per character (acc_norm) or byte (acc_bytes) of the choice. acc_tokens takes
// the mean over the tokens from the first in which the choices differ, as llama.cpp's perplexity
// tool does. Ties go to the first choice.
// differs: where a context must be cut to the model's trained length, all choices of an item are
// cut by the same number of tokens.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "eval/task.h"

namespace thimble::eval {

struct ChoiceItem {
    std::string context;
    std::vector<std::string> choices;
    std::int64_t answer = 0;  // index of the right one
};

// Reads items one after the other and hands them over until `take` returns false.
using TakeChoiceItem = std::function<bool(ChoiceItem item, const std::string& where)>;
using ChoiceReader = std::function<void(const std::string& path, const TakeChoiceItem& take)>;

struct ChoiceTaskOptions {
    std::string kind, file, fewshot;
    std::string delimiter = " ";  // between context and choice
    std::string options = {};     // for the record
};
[[nodiscard]] std::unique_ptr<Task> make_choice_scorer(ChoiceTaskOptions options,
                                                       ChoiceReader reader);

// One item as tokens. Trailing spaces of a context belong to the choice.
struct EncodedChoices {
    std::vector<std::vector<Token>> tokens;  // context and choice, per choice
    std::vector<double> characters, bytes;   // of each choice
    std::int64_t start = 0;                  // tokens of the context: what follows is scored
    std::int64_t common = 0;                 // tokens that begin all choices
    std::int64_t answer = 0;

    [[nodiscard]] std::uint64_t held_bytes() const noexcept;
};
// `longest`: most tokens that are fed; sets `cut` if tokens had to go.
[[nodiscard]] EncodedChoices encode_choices(const Tokenizer& tokenizer, const ChoiceItem& item,
                                            std::string_view delimiter, std::int64_t longest,
                                            bool& cut);

struct ChoiceScores {
    std::vector<double> sums;   // log-probability of each choice
    std::vector<double> means;  // per token from the first that differs
};
// Scores items with one sequence, which keeps what the next item's tokens share with the last
// one's.
class ChoiceScorer {
  public:
    explicit ChoiceScorer(Runner& runner);
    ~ChoiceScorer();
    ChoiceScorer(const ChoiceScorer&) = delete;
    ChoiceScorer& operator=(const ChoiceScorer&) = delete;
    [[nodiscard]] ChoiceScores score(const EncodedChoices& item);
    // Rows of logits that an item needs at once.
    [[nodiscard]] static std::int64_t logit_rows(const EncodedChoices& item);

  private:
    void seek(std::span<const Token> tokens);
    void feed(std::span<const Token> tokens, std::int64_t rows, std::span<const Token> targets,
              double* logprobs);
    Runner& runner_;
    SeqId sequence_;
    std::vector<Token> held_;
};

}  // namespace thimble::eval
