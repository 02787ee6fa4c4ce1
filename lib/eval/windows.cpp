// SPDX-License-Identifier: Apache-2.0
#include "eval/windows.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace thimble::eval {

Windows::Windows(std::vector<Token> tokens, std::int64_t context, std::int64_t limit,
                 std::optional<Token> bos, std::string_view where, Scored scored)
    : tokens_(std::move(tokens)),
      charge_(Tier::kRam, Purpose::kIo, tokens_.size() * sizeof(Token)),
      context_(context),
      scored_(scored) {
    if (scored_rows(context, Scored::kSecondHalf) < 1) {
        throw Error(Exit::kUsage, "--ctx-size",
                    std::to_string(context) + " tokens leave none to score", "use at least 4");
    }
    count_ = text_tokens() / context;
    if (count_ == 0) {
        throw Error(Exit::kUsage, std::string(where),
                    "has " + std::to_string(text_tokens()) + " tokens, fewer than one window of " +
                        std::to_string(context),
                    "use a longer text or a smaller --ctx-size");
    }
    if (limit > 0) count_ = std::min(count_, limit);
    if (!bos) return;
    // A window's first token is never a target, so it can be replaced for good.
    for (std::int64_t w = 0; w < count_; ++w)
        tokens_[static_cast<std::size_t>(w * context_)] = *bos;
}

std::span<const Token> Windows::inputs(std::int64_t window) const noexcept {
    return std::span(tokens_).subspan(static_cast<std::size_t>(window * context_),
                                      static_cast<std::size_t>(context_ - 1));
}

Token Windows::target(std::int64_t window, std::int64_t row) const noexcept {
    return tokens_[static_cast<std::size_t>(window * context_ + row + 1)];
}

std::vector<Token> window_tokens(const Tokenizer& tokenizer, std::string_view text,
                                 std::optional<Token>& bos) {
    if (text.ends_with('\n')) text.remove_suffix(1);
    const std::vector<Token> empty = tokenizer.encode("", {});
    const bool begins = !empty.empty() && empty.front() == tokenizer.bos();
    const bool ends = empty.size() > (begins ? 1 : 0) && empty.back() == tokenizer.eos();
    bos = begins ? std::optional(tokenizer.bos()) : std::nullopt;
    std::vector<Token> tokens = tokenizer.encode(text, {});
    if (ends && !tokens.empty()) tokens.pop_back();
    return tokens;
}

}  // namespace thimble::eval
