// SPDX-License-Identifier: Apache-2.0
// The text that statistics are made over, cut into windows of tokens. Plain text is cut as
// llama-imatrix cuts it: consecutive windows of the context's length, the rest dropped, each with
// BOS as its first token where the model wants one. Of JSON lines each record stands for itself: it
// is cut in the same way, and what is left counts when it has at least 16 tokens.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/ledger.h"
#include "core/options.h"
#include "text/tokenizer.h"

namespace thimble {

struct CalibrationOptions {
    std::string file, chat_template;
    std::int64_t context_tokens = 512;
    std::int64_t chunks = -1, first_chunk = 0;
    bool parse_special = false;
    void visit(OptionVisitor& v);
};

class CalibrationText {
  public:
    // JSON lines if the file's name ends in .jsonl: {"text"}, {"messages": [{"role", "content"}]}
    // (with the model's chat template) or {"prompt", "completion"} (one after the other). Errors:
    // kNoInput, kBadData naming the line, kUsage for a text shorter than what is asked of it.
    CalibrationText(const CalibrationOptions& options, const Tokenizer& tokenizer);

    // Views into this object.
    [[nodiscard]] std::vector<std::span<const Token>> windows() const;
    [[nodiscard]] std::int64_t tokens() const noexcept;  // of all windows
    [[nodiscard]] const std::string& sha256() const noexcept { return sha256_; }

    // Held now, and at most while the text was read.
    [[nodiscard]] std::uint64_t bytes() const noexcept { return charge_.bytes(); }
    [[nodiscard]] std::uint64_t peak_bytes() const noexcept { return peak_bytes_; }

  private:
    void add_text(std::string_view text, const Tokenizer& tokenizer,
                  const CalibrationOptions& options);
    void add_record(const std::string& line, std::int64_t number, const Tokenizer& tokenizer,
                    const CalibrationOptions& options);
    void cut(std::int64_t begin, std::int64_t context, std::int64_t least);
    void choose(const CalibrationOptions& options);

    struct Window {
        std::int64_t begin = 0, count = 0;
    };
    std::vector<Token> tokens_;
    std::vector<Window> windows_;
    std::string sha256_;
    std::uint64_t peak_bytes_ = 0;
    Charge charge_;
};

}  // namespace thimble
