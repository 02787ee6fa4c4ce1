// SPDX-License-Identifier: Apache-2.0
#include "eval/context_cache.h"

#include <algorithm>

namespace thimble::eval {

ContextCache::ContextCache(Runner& runner, std::int64_t step_tokens, bool forks)
    : runner_(runner), step_tokens_(step_tokens), forks_(forks), trunk_(runner.kv().open()) {}

ContextCache::~ContextCache() {
    close_branch();
    runner_.kv().close(trunk_);
}

void ContextCache::close_branch() {
    if (branch_ >= 0) runner_.kv().close(branch_);
    branch_ = -1;
}

// As Runner::prompt(), with looks at `go_on` where the prompt goes through all layers step by step.
bool ContextCache::feed(std::int64_t first, std::int64_t end, const GoOn& go_on) {
    const auto part = [&](std::int64_t at, std::int64_t count) {
        fed_ += count;
        return std::span(tokens_).subspan(static_cast<std::size_t>(at),
                                          static_cast<std::size_t>(count));
    };
    KvEngine& kv = runner_.kv();
    if (kv.edits_by_layer()) {
        if (go_on && !go_on()) return false;
        runner_.prompt(trunk_, part(first, end - first), 0, {});
        return true;
    }
    kv.begin_prompt(trunk_);
    for (std::int64_t at = first; at < end; at += step_tokens_) {
        if (go_on && !go_on()) return false;
        runner_.forward(trunk_, part(at, std::min(step_tokens_, end - at)), 0, {});
    }
    kv.end_prompt(runner_.exec(), trunk_);
    return true;
}

// All that is held into an empty sequence, prompt by prompt.
bool ContextCache::refill(const GoOn& go_on) {
    runner_.kv().truncate(trunk_, 0);
    std::int64_t first = 0;
    for (const std::int64_t end : ends_) {
        if (!feed(first, end, go_on)) return false;
        first = end;
    }
    return true;
}

bool ContextCache::begin(std::span<const Token> text, const GoOn& go_on) {
    close_branch();
    tokens_.assign(text.begin(), text.end());
    ends_ = {std::ssize(tokens_)};
    return refill(go_on);
}

// Where the sequence is the only one: as far as the policy and the layers' windows allow it, else
// everything goes through the model once more.
bool ContextCache::cut_back(const GoOn& go_on) {
    KvEngine& kv = runner_.kv();
    const std::int64_t held = std::ssize(tokens_);
    if (kv.tokens(trunk_) == held) return true;
    if (held < kv.rollback_floor(trunk_)) return refill(go_on);
    kv.truncate(trunk_, held);
    return true;
}

bool ContextCache::branch(const GoOn& go_on) {
    if (!forks_) return cut_back(go_on);
    close_branch();
    branch_ = runner_.kv().fork(trunk_);
    return true;
}

bool ContextCache::extend(std::span<const Token> tokens, const GoOn& go_on) {
    close_branch();
    if (!forks_ && !cut_back(go_on)) return false;
    const std::int64_t first = std::ssize(tokens_);
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    ends_.push_back(std::ssize(tokens_));
    return feed(first, ends_.back(), go_on);
}

}  // namespace thimble::eval
