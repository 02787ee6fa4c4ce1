// SPDX-License-Identifier: Apache-2.0
// How a text is cut for perplexity: consecutive windows of `context` tokens that do not overlap,
// the remainder dropped; each starts from an empty cache; where the model's rule asks for BOS it
// replaces a window's first token; predictions of the tokens after the first half are scored, so
// that each has context. This is the windowing of llama.cpp's perplexity tool, so figures compare.
// All predictions can be scored instead, to see how they change along the window.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "core/ledger.h"
#include "text/tokenizer.h"

namespace thimble::eval {

// Which rows of a window are scored.
enum class Scored : std::uint8_t { kSecondHalf, kAll };
[[nodiscard]] constexpr std::int64_t first_scored_row(std::int64_t context, Scored scored) {
    return scored == Scored::kAll ? 0 : context / 2;
}
[[nodiscard]] constexpr std::int64_t scored_rows(std::int64_t context, Scored scored) {
    return context - 1 - first_scored_row(context, scored);
}

class Windows {
  public:
    // `limit`: most windows to use, 0: all. Throws Error(kUsage) naming `where` (the text) when it
    // is shorter than one window or the context has no half to score.
    Windows(std::vector<Token> tokens, std::int64_t context, std::int64_t limit,
            std::optional<Token> bos, std::string_view where, Scored scored = Scored::kSecondHalf);

    [[nodiscard]] std::int64_t count() const noexcept { return count_; }
    [[nodiscard]] std::int64_t context() const noexcept { return context_; }
    // Rows [first_row, first_row + scored_rows) of a window's logits are scored.
    [[nodiscard]] std::int64_t first_row() const noexcept {
        return first_scored_row(context_, scored_);
    }
    [[nodiscard]] std::int64_t rows() const noexcept { return scored_rows(context_, scored_); }
    [[nodiscard]] std::int64_t text_tokens() const noexcept {
        return static_cast<std::int64_t>(tokens_.size());
    }
    // The tokens to feed: all but the last, which is only predicted.
    [[nodiscard]] std::span<const Token> inputs(std::int64_t window) const noexcept;
    // The token that follows row `row` of the window.
    [[nodiscard]] Token target(std::int64_t window, std::int64_t row) const noexcept;

  private:
    std::vector<Token> tokens_;
    Charge charge_;
    std::int64_t context_, count_;
    Scored scored_;
};

// The tokens of a text as the windows need them: with the model's own BOS rule, without EOS; one
// newline at the very end is dropped. `bos` is set to the token that begins each window, if any.
[[nodiscard]] std::vector<Token> window_tokens(const Tokenizer& tokenizer, std::string_view text,
                                               std::optional<Token>& bos);

}  // namespace thimble::eval
