// SPDX-License-Identifier: Apache-2.0
// A long text that several questions are asked about: it goes through the model once, and each
// question starts from the same cache.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "model/runner.h"
#include "text/tokenizer.h"

namespace thimble::eval {

class ContextCache {
  public:
    // `step_tokens`: fed at once, between two looks at `go_on`. `forks`: whether sequences can
    // share keys, which on a CUDA device they cannot.
    ContextCache(Runner& runner, std::int64_t step_tokens, bool forks);
    ~ContextCache();
    ContextCache(const ContextCache&) = delete;
    ContextCache& operator=(const ContextCache&) = delete;

    // Forgets what it holds and takes a text. Its end is the prompt's end for the KV policy, so
    // what is dropped there does not depend on any question. False where `go_on` (may be empty)
    // said no; the cache must begin anew then, here and below.
    using GoOn = std::function<bool()>;
    [[nodiscard]] bool begin(std::span<const Token> text, const GoOn& go_on);
    // Takes a further prompt for good: a turn that lies behind.
    [[nodiscard]] bool extend(std::span<const Token> tokens, const GoOn& go_on);
    // Makes `sequence()` hold what begin() and extend() took and nothing else. What the caller
    // feeds to it then is forgotten at the next call of any of these.
    [[nodiscard]] bool branch(const GoOn& go_on);
    [[nodiscard]] SeqId sequence() const noexcept { return forks_ ? branch_ : trunk_; }
    [[nodiscard]] const std::vector<Token>& tokens() const noexcept { return tokens_; }
    // That the cache fed itself so far.
    [[nodiscard]] std::int64_t fed_tokens() const noexcept { return fed_; }

  private:
    [[nodiscard]] bool feed(std::int64_t first, std::int64_t end, const GoOn& go_on);
    [[nodiscard]] bool refill(const GoOn& go_on);
    [[nodiscard]] bool cut_back(const GoOn& go_on);
    void close_branch();

    Runner& runner_;
    std::int64_t step_tokens_;
    bool forks_;
    SeqId trunk_, branch_ = -1;
    std::vector<Token> tokens_;       // all that is held
    std::vector<std::int64_t> ends_;  // of the text and of each extension
    std::int64_t fed_ = 0;
};

}  // namespace thimble::eval
