// SPDX-License-Identifier: Apache-2.0
#include "eval/kv_needles.h"

#include <algorithm>

#include "eval/answers.h"
#include "eval/metrics.h"
#include "eval/synthetic.h"

namespace thimble::eval {
namespace {

constexpr std::int64_t kSeed = 1;
constexpr std::int64_t kAnswerTokens = 24;
constexpr std::string_view kDigits = "0123456789";

// Feeds tokens and returns the most likely one after them.
Token next_token(Runner& runner, SeqId seq, std::span<const Token> tokens) {
    Token next = -1;
    runner.forward(seq, tokens, 1, [&](std::int64_t, View logits) { next = most_likely(logits); });
    return next;
}

// A sequence that is closed when it goes out of scope.
class OpenSequence {
  public:
    OpenSequence(KvEngine& kv, SeqId seq) : kv_(kv), seq_(seq) {}
    ~OpenSequence() { kv_.close(seq_); }
    OpenSequence(const OpenSequence&) = delete;
    OpenSequence& operator=(const OpenSequence&) = delete;
    operator SeqId() const noexcept { return seq_; }  // NOLINT: it stands for it

  private:
    KvEngine& kv_;
    SeqId seq_;
};

}  // namespace

KvNeedles::KvNeedles(const Tokenizer& tokenizer, std::int64_t length, std::int64_t count)
    : tokenizer_(tokenizer) {
    const CountTokens count_tokens = [&](const std::string& text) {
        return context_text_tokens(tokenizer, "", text);
    };
    std::vector<std::int64_t> depths;
    for (std::int64_t i = 0; i < count; ++i) depths.push_back(depth_of(i, count));
    const ContextItem item =
        pass_number_item({Draws(kSeed, 0), length, 0, count_tokens, "--needles"}, depths);
    EncodedContext encoded = encode_context(tokenizer, "", item, false);
    text_ = std::move(encoded.text);
    for (std::size_t i = 0; i < encoded.turns.size(); ++i)
        questions_.push_back(
            {std::move(encoded.turns[i].question), item.turns[i].gold.answers.front()});
}

std::int64_t KvNeedles::most_tokens() const noexcept {
    std::int64_t longest = 0;
    for (const Question& question : questions_)
        longest = std::max(longest, std::ssize(question.tokens));
    return std::ssize(text_) + longest + kAnswerTokens;
}

// Goes on greedily until the first run of digits is whole.
std::string KvNeedles::answer(Runner& runner, SeqId seq, Token first) const {
    std::string text;
    Token next = first;
    for (std::int64_t i = 0; i < kAnswerTokens && !tokenizer_.is_end(next); ++i) {
        text += tokenizer_.piece(next);
        const std::size_t digit = text.find_first_of(kDigits);
        if (digit != std::string::npos &&
            text.find_first_not_of(kDigits, digit) != std::string::npos)
            break;
        next = next_token(runner, seq, {&next, 1});
    }
    return text;
}

NeedleHits KvNeedles::hits(const NeedleAnswers& answers) const {
    const auto right = [&](const std::vector<std::string>& texts) {
        std::int64_t sum = 0;
        for (std::size_t i = 0; i < texts.size(); ++i) {
            const Gold gold{{questions_[i].number}};
            sum += score_answer(Measure::kFirstDigits, texts[i], gold) > 0 ? 1 : 0;
        }
        return sum;
    };
    return {right(answers.question_seen), right(answers.question_later)};
}

std::vector<NeedleAnswers> KvNeedles::ask(Runner& runner, std::span<const KvBudget> budgets) const {
    std::vector<NeedleAnswers> answers(std::max<std::size_t>(budgets.size(), 1));
    KvEngine& kv = runner.kv();
    if (kv.filter_layer() >= 0) {
        ask_filtered(runner, answers.front());
        return answers;
    }
    const OpenSequence text(kv, kv.open());
    kv.begin_prompt(text);
    runner.forward(text, text_, 0, {});
    runner.learn_prompt(text, text_);
    ask_seen(runner, text, budgets, answers);
    for (std::size_t b = 0; b < answers.size(); ++b) {
        const OpenSequence dropped(kv, kv.fork(text));
        if (!budgets.empty()) kv.set_budget(dropped, budgets[b]);
        kv.end_prompt(runner.exec(), dropped);
        for (const Question& question : questions_) {
            const OpenSequence branch(kv, kv.fork(dropped));
            const Token first = next_token(runner, branch, question.tokens);
            answers[b].question_later.push_back(answer(runner, branch, first));
        }
    }
    return answers;
}

// Each question ends the prompt, which then is cut to each budget.
void KvNeedles::ask_seen(Runner& runner, SeqId text, std::span<const KvBudget> budgets,
                         std::vector<NeedleAnswers>& answers) const {
    KvEngine& kv = runner.kv();
    for (const Question& question : questions_) {
        const OpenSequence whole(kv, kv.fork(text));
        const Token first = next_token(runner, whole, question.tokens);
        runner.learn_prompt(whole, question.tokens);
        for (std::size_t b = 0; b < answers.size(); ++b) {
            const OpenSequence dropped(kv, kv.fork(whole));
            if (!budgets.empty()) kv.set_budget(dropped, budgets[b]);
            kv.end_prompt(runner.exec(), dropped);
            answers[b].question_seen.push_back(answer(runner, dropped, first));
        }
    }
}

// A policy that chooses which tokens are read at all reads every prompt from its beginning.
void KvNeedles::ask_filtered(Runner& runner, NeedleAnswers& answers) const {
    KvEngine& kv = runner.kv();
    const OpenSequence text(kv, kv.open());
    runner.prompt(text, text_, 0, {});
    for (const Question& question : questions_) {
        const OpenSequence branch(kv, kv.fork(text));
        const Token first = next_token(runner, branch, question.tokens);
        answers.question_later.push_back(answer(runner, branch, first));
    }
    for (const Question& question : questions_) {
        std::vector<Token> prompt = text_;
        prompt.insert(prompt.end(), question.tokens.begin(), question.tokens.end() - 1);
        const OpenSequence seq(kv, kv.open());
        runner.prompt(seq, prompt, 0, {});
        const Token first = next_token(runner, seq, {&question.tokens.back(), 1});
        answers.question_seen.push_back(answer(runner, seq, first));
    }
}

}  // namespace thimble::eval
