// SPDX-License-Identifier: Apache-2.0
#include "eval/checked_texts.h"

#include <algorithm>

#include "core/error.h"
#include "text/tokenizer.h"

namespace thimble::eval {

void CheckedTextOptions::visit(OptionVisitor& v) {
    v.group("Calibration and quality");
    v.option({.name = "file",
              .letter = 'f',
              .help = "text that importance is measured on, or JSON lines (.jsonl) with text, "
                      "messages, or prompt and completion",
              .value = "FILE",
              .is_input = true},
             file);
    v.option({.name = "ctx-size",
              .letter = 'c',
              .help = "tokens of a window",
              .value = "N",
              .least = 16,
              .most = 1 << 20},
             context_tokens);
    v.option({.name = "chunks",
              .help = "most windows of it to use",
              .value = "N",
              .least = 1,
              .most = 1e9},
             chunks);
    v.option({.name = "check-file",
              .help = "text that quality is measured on; without it the windows that follow those "
                      "used for calibration",
              .value = "FILE",
              .changes_output = false,
              .is_input = true},
             check_file);
    v.option({.name = "check-chunks",
              .help = "windows of it; 0: quality is not measured",
              .value = "N",
              .changes_output = false,
              .least = 0,
              .most = 1e9},
             check_chunks);
    v.option(
        {.name = "max-kld",
         .help = "write no output (exit 3) where the mean divergence from the model is larger; "
                 "0: no such limit",
         .value = "NATS",
         .least = 0,
         .most = 1e3},
        max_kld);
    v.option({.name = "parse-special", .help = "special tokens' text in the file means the tokens"},
             parse_special);
    v.option({.name = "chat-template",
              .help = "template for messages, if the model's own is not known",
              .value = "NAME"},
             chat_template);
}

CheckedTexts::CheckedTexts(const CheckedTextOptions& options, const ModelFile& model) {
    if (options.file.empty() && options.check_file.empty()) return;
    const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::open(model);
    CalibrationOptions cut;
    cut.context_tokens = options.context_tokens;
    cut.parse_special = options.parse_special;
    cut.chat_template = options.chat_template;
    CalibrationTexts held_out;
    if (!options.file.empty()) {
        cut.file = options.file;
        text_.emplace(cut, *tokenizer);
        windows_ = text_->windows();
        const CalibrationTexts all = windows_;
        const std::int64_t most =
            std::ssize(all) - (options.check_file.empty() ? options.check_chunks : 0);
        if (most < 1) {
            throw Error(Exit::kUsage, escaped(options.file, 1024),
                        "has " + std::to_string(all.size()) + " windows of " +
                            std::to_string(options.context_tokens) + " tokens: none is left " +
                            "beside the " + std::to_string(options.check_chunks) +
                            " that quality is measured on",
                        "use a longer text, a smaller --ctx-size or --check-chunks, or give "
                        "--check-file");
        }
        windows_.resize(static_cast<std::size_t>(std::min(most, options.chunks)));
        held_out.assign(all.begin() + std::ssize(windows_), all.end());
        peak_bytes_ =
            Tokenizer::predict_bytes(model) + Tokenizer::scratch_bytes() + text_->peak_bytes();
    }
    if (!options.check_file.empty()) {
        cut.file = options.check_file;
        check_text_.emplace(cut, *tokenizer);
        held_out = check_text_->windows();
    }
    for (const auto& window : windows_)
        longest_ = std::max<std::int64_t>(longest_, std::ssize(window));
    if (options.check_chunks == 0) return;
    std::vector<Token> tokens;
    for (const auto& window : held_out) {
        if (std::ssize(window) == options.context_tokens)
            tokens.insert(tokens.end(), window.begin(), window.end());
    }
    checks_.emplace(std::move(tokens), options.context_tokens, options.check_chunks, std::nullopt,
                    escaped(cut.file, 1024));
}

std::uint64_t CheckedTexts::bytes() const noexcept {
    return (text_ ? text_->bytes() : 0) + (check_text_ ? check_text_->bytes() : 0);
}

}  // namespace thimble::eval
