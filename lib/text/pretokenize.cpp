// SPDX-License-Identifier: Apache-2.0
#include "text/pretokenize.h"

#include <array>

#include "text/unicode.h"

namespace thimble {
namespace {

constexpr std::array<PreTokenizerName, 6> kNames = {{
    {PreTokenizer::kGpt2, "gpt-2", false, false},
    {PreTokenizer::kGpt2, "gpt2", false, false},
    {PreTokenizer::kSmollm, "smollm", false, false},
    {PreTokenizer::kLlama3, "llama-bpe", true, true},
    {PreTokenizer::kLlama3, "llama3", true, true},
    {PreTokenizer::kQwen2, "qwen2", false, false},
}};

// End of the run of characters of one class that starts at `at`.
std::size_t run_end(std::string_view text, std::size_t at, CharClass kind) {
    for (;;) {
        const Char c = char_at(text, at);
        if (c.bytes == 0 || c.kind != kind) return at;
        at += c.bytes;
    }
}

constexpr bool is_line_end(char32_t c) { return c == '\r' || c == '\n'; }

// Length of 's 't 'm 'd 'll 've 're at `at`, else 0.
std::size_t contraction(std::string_view text, std::size_t at, bool any_case) {
    if (text[at] != '\'') return 0;
    const auto letter = [&](std::size_t i) -> char {
        const char c = at + i < text.size() ? text[at + i] : '\0';
        return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    };
    const char a = letter(1), b = letter(2);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if ((a == 'l' && b == 'l') || (a == 'v' && b == 'e') || (a == 'r' && b == 'e')) return 3;
    // U+017F LATIN SMALL LETTER LONG S folds to s.
    if (any_case && text.substr(at + 1).starts_with("\xc5\xbf")) return 3;
    return 0;
}

// \s+(?!\S) or else \s+: a run of spaces leaves its last one to the word that follows.
std::size_t spaces(std::string_view text, std::size_t at) {
    std::size_t last = at, end = at;
    for (Char c = char_at(text, end); c.bytes != 0 && c.kind == CharClass::kSpace;
         c = char_at(text, end)) {
        last = end;
        end += c.bytes;
    }
    return end == text.size() || last == at ? end : last;
}

std::size_t gpt2_word(std::string_view text, std::size_t at) {
    if (const std::size_t length = contraction(text, at, false)) return at + length;
    std::size_t start = at;
    if (text[at] == ' ') ++start;
    const Char c = char_at(text, start);
    if (c.bytes == 0 || c.kind == CharClass::kSpace) return spaces(text, at);
    return run_end(text, start, c.kind);
}

std::size_t smollm_word(std::string_view text, std::size_t at) {
    const Char first = char_at(text, at);
    if (first.kind == CharClass::kNumber) return at + first.bytes;
    // The text up to the next number is cut as if it stood alone. Only spaces before the number
    // can tell: they have nothing after them to leave their last one to.
    if (first.kind == CharClass::kSpace) {
        const std::size_t end = run_end(text, at, CharClass::kSpace);
        if (char_at(text, end).kind == CharClass::kNumber) return end;
    }
    return gpt2_word(text, at);
}

// (?i:contraction) | [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N}{1,group} |  ?[^\s\p{L}\p{N}]+[\r\n]* |
// \s*[\r\n]+ | \s+(?!\S) | \s+
std::size_t llama3_word(std::string_view text, std::size_t at, int group) {
    if (const std::size_t length = contraction(text, at, true)) return at + length;
    const Char first = char_at(text, at);
    const Char second = char_at(text, at + first.bytes);
    if (first.kind == CharClass::kLetter) return run_end(text, at, CharClass::kLetter);
    if (first.kind == CharClass::kNumber) {
        std::size_t end = at;
        for (int i = 0; i < group; ++i) {
            const Char c = char_at(text, end);
            if (c.bytes == 0 || c.kind != CharClass::kNumber) break;
            end += c.bytes;
        }
        return end;
    }
    if (second.kind == CharClass::kLetter && !is_line_end(first.code)) {
        return run_end(text, at + first.bytes, CharClass::kLetter);
    }
    const bool spaced = first.code == ' ' && second.bytes != 0 && second.kind == CharClass::kOther;
    if (first.kind == CharClass::kOther || spaced) {
        std::size_t end = run_end(text, at + (spaced ? 1 : 0), CharClass::kOther);
        while (end < text.size() && is_line_end(static_cast<unsigned char>(text[end]))) ++end;
        return end;
    }
    const std::size_t end = run_end(text, at, CharClass::kSpace);
    const std::size_t line_end = text.substr(at, end - at).find_last_of("\r\n");
    if (line_end != std::string_view::npos) return at + line_end + 1;
    return spaces(text, at);
}

}  // namespace

std::optional<PreTokenizerName> find_pre_tokenizer(std::string_view name) {
    for (const PreTokenizerName& known : kNames) {
        if (known.name == name) return known;
    }
    return std::nullopt;
}

std::vector<std::string> pre_tokenizer_names() {
    std::vector<std::string> names;
    for (const PreTokenizerName& known : kNames) names.emplace_back(known.name);
    return names;
}

std::size_t next_word(PreTokenizer kind, std::string_view text, std::size_t at) {
    switch (kind) {
        case PreTokenizer::kGpt2:
            return gpt2_word(text, at);
        case PreTokenizer::kSmollm:
            return smollm_word(text, at);
        case PreTokenizer::kLlama3:
            return llama3_word(text, at, 3);
        case PreTokenizer::kQwen2:
            return llama3_word(text, at, 1);
    }
    return text.size();
}

}  // namespace thimble
