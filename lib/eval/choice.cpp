// SPDX-License-Identifier: Apache-2.0
#include "eval/choice.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/strings.h"
#include "eval/scoring.h"

namespace thimble::eval {
namespace {

// First row of logits that scoring needs: the one that predicts the first scored token.
std::int64_t first_row(const EncodedChoices& item) { return std::min(item.start, item.common) - 1; }

double characters_of(std::string_view text) {
    double count = 0;
    while (!text.empty()) {
        text.remove_prefix(std::max<std::size_t>(utf8_length(text), 1));
        ++count;
    }
    return count;
}

std::int64_t common_prefix(const std::vector<std::vector<Token>>& lists) {
    std::size_t common = lists.front().size();
    for (const auto& list : lists) {
        const auto end = list.begin() + static_cast<std::ptrdiff_t>(std::min(common, list.size()));
        common = static_cast<std::size_t>(
            std::mismatch(list.begin(), end, lists.front().begin()).first - list.begin());
    }
    return static_cast<std::int64_t>(common);
}

}  // namespace

std::uint64_t EncodedChoices::held_bytes() const noexcept {
    std::uint64_t sum = sizeof(*this);
    for (const auto& list : tokens) {
        sum += sizeof(std::vector<Token>) + 2 * sizeof(double) + list.capacity() * sizeof(Token);
    }
    return sum;
}

EncodedChoices encode_choices(const Tokenizer& tokenizer, const ChoiceItem& item,
                              std::string_view delimiter, std::int64_t longest, bool& cut) {
    std::string context = item.context;
    const std::size_t end = context.find_last_not_of(" \t\n\r") + 1;
    const std::string rest = context.substr(end) + std::string(delimiter);
    context.resize(end);
    EncodedChoices out;
    out.answer = item.answer;
    std::vector<Token> start = tokenizer.encode(context, {});
    const bool empty = start.empty();
    const Token begin = tokenizer.bos() >= 0 ? tokenizer.bos() : tokenizer.eos();
    out.start = std::ssize(start) + (empty ? 1 : 0);
    std::int64_t most = 0;
    for (const std::string& choice : item.choices) {
        std::vector<Token> tokens = tokenizer.encode(context + rest + choice, {});
        if (empty) tokens.insert(tokens.begin(), std::max<Token>(begin, 0));
        out.start = std::min(out.start, std::ssize(tokens) - 1);
        most = std::max(most, std::ssize(tokens) - 1);
        tokens.shrink_to_fit();
        out.tokens.push_back(std::move(tokens));
        out.characters.push_back(std::max(characters_of(choice), 1.0));
        out.bytes.push_back(std::max(static_cast<double>(choice.size()), 1.0));
    }
    out.start = std::max<std::int64_t>(out.start, 1);
    const std::int64_t over = std::min(most - longest, out.start - 1);
    cut = over > 0;
    if (cut) {
        for (auto& tokens : out.tokens) tokens.erase(tokens.begin(), tokens.begin() + over);
        out.start -= over;
    }
    out.common = std::max<std::int64_t>(common_prefix(out.tokens), 1);
    return out;
}

ChoiceScorer::ChoiceScorer(Runner& runner) : runner_(runner), sequence_(runner.kv().open()) {}

ChoiceScorer::~ChoiceScorer() { runner_.kv().close(sequence_); }

std::int64_t ChoiceScorer::logit_rows(const EncodedChoices& item) {
    std::int64_t most = 1;
    for (const auto& tokens : item.tokens)
        most = std::max(most, std::ssize(tokens) - 1 - first_row(item));
    return most;
}

// Makes the sequence hold a prefix of `tokens`, as long as can be had without computing anything.
void ChoiceScorer::seek(std::span<const Token> tokens) {
    const std::size_t limit = std::min(tokens.size(), held_.size());
    std::size_t shared = 0;
    while (shared < limit && held_[shared] == tokens[shared]) ++shared;
    KvEngine& kv = runner_.kv();
    if (static_cast<std::int64_t>(shared) < kv.rollback_floor(sequence_)) shared = 0;
    kv.truncate(sequence_, static_cast<std::int64_t>(shared));
    held_.resize(shared);
}

// Appends tokens; the last `rows` of their logits give log-probabilities of `targets`.
void ChoiceScorer::feed(std::span<const Token> tokens, std::int64_t rows,
                        std::span<const Token> targets, double* logprobs) {
    runner_.forward(sequence_, tokens, rows, [&](std::int64_t first, View logits) {
        runner_.exec().team->run(logits.rows, 1, [&](std::int64_t b, std::int64_t e) {
            for (std::int64_t r = b; r < e; ++r) {
                const auto at = static_cast<std::size_t>(first + r);
                logprobs[at] = -score_row(logits.slice_rows(r, 1), targets[at]).nll;
            }
        });
    });
    held_.insert(held_.end(), tokens.begin(), tokens.end());
}

ChoiceScores ChoiceScorer::score(const EncodedChoices& item) {
    const std::int64_t row = first_row(item);
    // The tokens before that row's are the same for all choices; the row itself is computed once
    // more for each, which costs one token.
    const auto shared = static_cast<std::size_t>(row);
    ChoiceScores out;
    for (const std::vector<Token>& tokens : item.tokens) {
        const std::span<const Token> all(tokens);
        seek(all.first(shared));
        if (held_.size() < shared)
            feed(all.subspan(held_.size(), shared - held_.size()), 0, {}, {});
        const auto fed = all.subspan(shared, all.size() - 1 - shared);
        std::vector<double> logprobs(fed.size());
        feed(fed, std::ssize(fed), all.subspan(shared + 1), logprobs.data());
        double sum = 0, differing = 0;
        for (std::size_t i = 0; i < logprobs.size(); ++i) {
            const std::int64_t token = row + 1 + static_cast<std::int64_t>(i);
            if (token >= item.start) sum += logprobs[i];
            if (token >= item.common) differing += logprobs[i];
        }
        const std::int64_t count = std::ssize(tokens) - item.common;
        if (!std::isfinite(sum) || !std::isfinite(differing)) {
            throw Error(Exit::kBadData, escaped(runner_.source().file().path(), 1024),
                        "gives logits that are not finite",
                        "its weights may be damaged; try --activations f32");
        }
        out.sums.push_back(sum);
        out.means.push_back(differing / static_cast<double>(std::max<std::int64_t>(count, 1)));
    }
    return out;
}

}  // namespace thimble::eval
