// SPDX-License-Identifier: Apache-2.0
// Whether a model still finds numbers in a long text when a KV-cache policy has dropped keys of it:
// each number is asked for alone, either at the prompt's end, where the policy sees the question
// before it drops anything, or after the policy has dropped what it drops.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kv/policy.h"
#include "model/runner.h"
#include "text/tokenizer.h"

namespace thimble::eval {

// The answers of one policy and budget, by question.
struct NeedleAnswers {
    std::vector<std::string> question_seen, question_later;
};
struct NeedleHits {
    std::int64_t question_seen = 0, question_later = 0;  // answers that were right
};

class KvNeedles {
  public:
    // A text of at most `length` tokens, in the model's own chat form where it has one, with
    // `count` numbers from its beginning to its end. Error(kUsage) when they do not fit.
    KvNeedles(const Tokenizer& tokenizer, std::int64_t length, std::int64_t count);

    [[nodiscard]] std::int64_t count() const noexcept { return std::ssize(questions_); }
    // Most tokens that a sequence holds at once.
    [[nodiscard]] std::int64_t most_tokens() const noexcept;
    // Greedy answers, each as far as its first number, under each of these budgets; none given:
    // under the runner's own.
    [[nodiscard]] std::vector<NeedleAnswers> ask(Runner& runner,
                                                 std::span<const KvBudget> budgets) const;
    [[nodiscard]] NeedleHits hits(const NeedleAnswers& answers) const;
    [[nodiscard]] std::span<const Token> text() const noexcept { return text_; }
    [[nodiscard]] std::span<const Token> question(std::int64_t i) const {
        return questions_.at(static_cast<std::size_t>(i)).tokens;
    }

  private:
    struct Question {
        std::vector<Token> tokens;
        std::string number;
    };
    [[nodiscard]] std::string answer(Runner& runner, SeqId seq, Token first) const;
    void ask_filtered(Runner& runner, NeedleAnswers& answers) const;
    void ask_seen(Runner& runner, SeqId text, std::span<const KvBudget> budgets,
                  std::vector<NeedleAnswers>& answers) const;

    const Tokenizer& tokenizer_;
    std::vector<Token> text_;
    std::vector<Question> questions_;
};

}  // namespace thimble::eval
