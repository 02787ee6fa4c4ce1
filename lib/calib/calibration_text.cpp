// SPDX-License-Identifier: Apache-2.0
#include "calib/calibration_text.h"

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "io/file.h"
#include "io/json.h"
#include "io/sha256.h"

namespace thimble {
namespace {

constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 32;
constexpr std::int64_t kLeastTokens = 16;  // of a record's last window

bool is_json_lines(const std::string& path) { return path.ends_with(".jsonl"); }

// The token that begins each window, if the model's rule asks for one.
std::optional<Token> first_token(const Tokenizer& tokenizer) {
    const std::vector<Token> empty = tokenizer.encode("", {});
    if (empty.empty() || empty.front() != tokenizer.bos()) return {};
    return tokenizer.bos();
}

std::vector<Token> encode(std::string_view text, const Tokenizer& tokenizer, bool parse_special) {
    EncodeText how;
    how.parse_special = parse_special;
    std::vector<Token> tokens = tokenizer.encode(text, how);
    const std::vector<Token> empty = tokenizer.encode("", {});
    const std::size_t begins = !empty.empty() && empty.front() == tokenizer.bos() ? 1 : 0;
    const bool ends = empty.size() > begins && empty.back() == tokenizer.eos();
    if (ends && !tokens.empty()) tokens.pop_back();
    return tokens;
}

std::string text_of(const Json& record, std::string_view key, const std::string& where) {
    const Json* value = record.find(key);
    if (value == nullptr || !value->is_string())
        throw Error(Exit::kBadData, where, "'" + std::string(key) + "' must be a text");
    return std::string(value->as_string(where));
}

std::vector<ChatMessage> messages_of(const Json& list, const std::string& where) {
    std::vector<ChatMessage> messages;
    for (const Json& message : list.as_array(where)) {
        if (!message.is_object()) throw Error(Exit::kBadData, where, "a message is an object");
        messages.push_back({text_of(message, "role", where), text_of(message, "content", where)});
    }
    return messages;
}

}  // namespace

void CalibrationOptions::visit(OptionVisitor& v) {
    v.group("Calibration text");
    v.option({.name = "file",
              .letter = 'f',
              .help = "text, or JSON lines (.jsonl) with text, messages, or prompt and completion",
              .value = "FILE",
              .required = true,
              .is_input = true,
              .positional = true},
             file);
    v.option({.name = "ctx-size",
              .letter = 'c',
              .help = "tokens of a window",
              .value = "N",
              .least = 16,
              .most = 1 << 20},
             context_tokens);
    v.option({.name = "chunks",
              .help = "windows to use; -1: all",
              .value = "N",
              .least = -1,
              .most = 1e9},
             chunks);
    v.option({.name = "from-chunk",
              .help = "windows to skip first",
              .value = "N",
              .least = 0,
              .most = 1e9,
              .also = "chunk"},
             first_chunk);
    v.option({.name = "parse-special", .help = "special tokens' text in the file means the tokens"},
             parse_special);
    v.option({.name = "chat-template",
              .help = "template for messages, if the model's own is not known",
              .value = "NAME"},
             chat_template);
}

CalibrationText::CalibrationText(const CalibrationOptions& options, const Tokenizer& tokenizer) {
    const std::string text = read_text_file(options.file, kMostBytes);
    const Charge charge(Tier::kRam, Purpose::kIo, text.size());
    sha256_ = sha256_of(text);
    if (!is_json_lines(options.file)) {
        add_text(text, tokenizer, options);
    } else {
        std::int64_t number = 0;
        for (std::size_t at = 0; at < text.size();) {
            const std::size_t end = std::min(text.find('\n', at), text.size());
            ++number;
            if (text.find_first_not_of(" \t\r", at) < end)
                add_record(text.substr(at, end - at), number, tokenizer, options);
            at = end + 1;
        }
    }
    charge_ = Charge(Tier::kRam, Purpose::kIo, tokens_.size() * sizeof(Token));
    peak_bytes_ = text.size() + charge_.bytes();
    choose(options);
}

void CalibrationText::add_text(std::string_view text, const Tokenizer& tokenizer,
                               const CalibrationOptions& options) {
    if (text.ends_with('\n')) text.remove_suffix(1);
    tokens_ = encode(text, tokenizer, options.parse_special);
    cut(0, options.context_tokens, options.context_tokens);
    const std::optional<Token> first = first_token(tokenizer);
    if (!first) return;
    for (const Window& w : windows_) tokens_[static_cast<std::size_t>(w.begin)] = *first;
}

void CalibrationText::add_record(const std::string& line, std::int64_t number,
                                 const Tokenizer& tokenizer, const CalibrationOptions& options) {
    const std::string where = escaped(options.file, 1024) + ", line " + std::to_string(number);
    const Json record = parse_json(line, where);
    if (!record.is_object()) throw Error(Exit::kBadData, where, "a record is an object");
    std::vector<Token> tokens;
    if (const Json* messages = record.find("messages")) {
        tokens =
            encode_chat(tokenizer, options.chat_template, messages_of(*messages, where), false);
    } else if (record.find("text") != nullptr) {
        tokens = encode(text_of(record, "text", where), tokenizer, options.parse_special);
    } else if (record.find("prompt") != nullptr) {
        tokens = encode(text_of(record, "prompt", where) + text_of(record, "completion", where),
                        tokenizer, options.parse_special);
    } else {
        throw Error(Exit::kBadData, where,
                    "a record has 'text', 'messages', or 'prompt' and 'completion'");
    }
    const std::int64_t begin = std::ssize(tokens_);
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    cut(begin, options.context_tokens, std::min(kLeastTokens, options.context_tokens));
}

void CalibrationText::cut(std::int64_t begin, std::int64_t context, std::int64_t least) {
    const std::int64_t end = std::ssize(tokens_);
    for (; end - begin >= least; begin += std::min(context, end - begin))
        windows_.push_back({begin, std::min(context, end - begin)});
}

void CalibrationText::choose(const CalibrationOptions& options) {
    const std::int64_t found = std::ssize(windows_);
    if (found <= options.first_chunk) {
        throw Error(Exit::kUsage, escaped(options.file, 1024),
                    "has " + std::to_string(tokens_.size()) + " tokens, " + std::to_string(found) +
                        " windows of " + std::to_string(options.context_tokens) + ", and " +
                        std::to_string(options.first_chunk) + " are to be skipped",
                    "use a longer text or a smaller --ctx-size");
    }
    windows_.erase(windows_.begin(), windows_.begin() + options.first_chunk);
    if (options.chunks > 0 && options.chunks < std::ssize(windows_))
        windows_.resize(static_cast<std::size_t>(options.chunks));
}

std::vector<std::span<const Token>> CalibrationText::windows() const {
    std::vector<std::span<const Token>> out;
    for (const Window& w : windows_) {
        out.push_back(std::span(tokens_).subspan(static_cast<std::size_t>(w.begin),
                                                 static_cast<std::size_t>(w.count)));
    }
    return out;
}

std::int64_t CalibrationText::tokens() const noexcept {
    std::int64_t sum = 0;
    for (const Window& w : windows_) sum += w.count;
    return sum;
}

}  // namespace thimble
