// SPDX-License-Identifier: Apache-2.0
#include "eval/context_cache.h"

#include <algorithm>

namespace thimble::eval {

ContextCache::ContextCache(Runner& runner, std::int64_t step_tokens)
    : runner_(runner), step_tokens_(step_tokens), sequence_(runner.kv().open()) {}

ContextCache::~ContextCache() { runner_.kv().close(sequence_); }

bool ContextCache::feed(std::int64_t first, std::int64_t end, const GoOn& go_on) {
    for (std::int64_t at = first; at < end; at += step_tokens_) {
        if (go_on && !go_on()) return false;
        const std::int64_t count = std::min(step_tokens_, end - at);
        runner_.forward(sequence_,
                        std::span(tokens_).subspan(static_cast<std::size_t>(at),
                                                   static_cast<std::size_t>(count)),
                        0, {});
        fed_ += count;
    }
    return true;
}

// All that is held into an empty sequence, with the text's end where it was.
bool ContextCache::refill(const GoOn& go_on) {
    runner_.kv().truncate(sequence_, 0);
    std::int64_t first = 0;
    for (const std::int64_t end : ends_) {
        if (!feed(first, end, go_on)) return false;
        // The text's end, where policies that drop keys do so, is here when `first` is 0.
        first = end;
    }
    return true;
}

bool ContextCache::begin(std::span<const Token> text, const GoOn& go_on) {
    tokens_.assign(text.begin(), text.end());
    ends_ = {std::ssize(tokens_)};
    return refill(go_on);
}

// The sequence is the only one: it is cut back where the policy and the layers' windows allow it,
// else everything goes through the model once more.
bool ContextCache::branch(const GoOn& go_on) {
    KvEngine& kv = runner_.kv();
    const std::int64_t held = std::ssize(tokens_);
    if (kv.tokens(sequence_) == held) return true;
    if (kv.tokens(sequence_) < held || held < kv.rollback_floor(sequence_)) return refill(go_on);
    kv.truncate(sequence_, held);
    return true;
}

bool ContextCache::extend(std::span<const Token> tokens, const GoOn& go_on) {
    if (tokens.empty()) return true;
    if (!branch(go_on)) return false;
    const std::int64_t first = std::ssize(tokens_);
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    ends_.push_back(std::ssize(tokens_));
    return feed(first, ends_.back(), go_on);
}

}  // namespace thimble::eval
