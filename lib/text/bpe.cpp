// SPDX-License-Identifier: Apache-2.0
#include "text/bpe.h"

#include <algorithm>

#include "core/strings.h"
#include "text/unicode.h"

namespace thimble {
namespace {

// Control tokens that end a turn or a text in the model families we know; files often name only
// one of them.
constexpr std::array<std::string_view, 10> kEndPieces = {
    "<|im_end|>",      "<|endoftext|>", "<end_of_turn>", "<|eot_id|>", "<|eom_id|>",
    "<|end_of_text|>", "<|end|>",       "<|eot|>",       "<EOT>",      "</s>"};

}  // namespace

Token TokenizerRules::id(std::string_view name) const noexcept {
    for (const auto& [key, token] : ids) {
        if (key == name) return token;
    }
    return -1;
}

BpeTokenizer::BpeTokenizer(std::unique_ptr<Vocabulary> vocabulary, TokenizerRules rules,
                           bool add_bos, bool add_eos)
    : vocabulary_(std::move(vocabulary)),
      rules_(std::move(rules)),
      bos_(rules_.id("bos")),
      eos_(rules_.id("eos")),
      add_bos_(add_bos && bos_ >= 0),
      add_eos_(add_eos && eos_ >= 0) {
    for (const std::string_view name : {"eos", "eot", "eom"}) {
        if (const Token token = rules_.id(name); token >= 0) ends_.push_back(token);
    }
    for (const std::string_view text : kEndPieces) {
        const Token token = vocabulary_->find(text);
        if (token >= 0 && vocabulary_->kind(token) == TokenKind::kControl) ends_.push_back(token);
    }
}

std::int64_t BpeTokenizer::size() const noexcept {
    return static_cast<std::int64_t>(vocabulary_->size());
}

bool BpeTokenizer::is_end(Token token) const noexcept {
    return std::find(ends_.begin(), ends_.end(), token) != ends_.end();
}

Token BpeTokenizer::find(std::string_view text) const noexcept { return vocabulary_->find(text); }

BpeTokenizer::Work::Work(std::size_t text_bytes)
    : memory(Purpose::kOther), merger(&memory), cache(text_bytes, &memory) {}

std::uint64_t Tokenizer::scratch_bytes() noexcept {
    return WordCache::most_bytes() + Merger::most_bytes(512);
}

std::vector<Token> BpeTokenizer::encode(std::string_view text, const EncodeText& how) const {
    std::vector<Token> tokens;
    Work work(text.size());
    work.out = &tokens;
    if (how.add_special && add_bos_) tokens.push_back(bos_);
    const auto piece_bytes = [&](Token t) { return t < 0 ? 0 : vocabulary_->piece(t).size(); };
    std::size_t start = 0;
    auto literal = how.literal.begin();
    for (std::size_t at = 0; at < text.size();) {
        if (!vocabulary_->starts_added(text[at])) {
            ++at;
            continue;
        }
        while (literal != how.literal.end() && literal->end <= at) ++literal;
        // Control tokens are matched only in front of the next literal range.
        const std::size_t border = literal == how.literal.end() ? text.size() : literal->begin;
        Token added = vocabulary_->match_added(text.substr(at), false);
        if (how.parse_special && at < border) {
            const Token control = vocabulary_->match_added(text.substr(at, border - at), true);
            if (piece_bytes(control) > piece_bytes(added)) added = control;
        }
        if (added < 0) {
            ++at;
            continue;
        }
        if (start < at) encode_plain(text.substr(start, at - start), work);
        tokens.push_back(added);
        work.at_start = false;
        at += piece_bytes(added);
        start = at;
    }
    if (start < text.size()) encode_plain(text.substr(start), work);
    if (how.add_special && add_eos_) tokens.push_back(eos_);
    return tokens;
}

int parse_byte_piece(std::string_view text) noexcept {
    if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
    const auto digit = [](char c) {
        if (c >= '0' && c <= '9') return c - '0';
        return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    };
    const int high = digit(text[3]), low = digit(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

char32_t spell_byte(std::uint8_t byte) noexcept {
    // Printable Latin-1 characters stand for themselves, the 68 others for U+0100 and up, in order.
    static const auto table = [] {
        std::array<char32_t, 256> t{};
        char32_t next = 0x100;
        for (char32_t b = 0; b < 256; ++b) {
            const bool printable =
                (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
            t[b] = printable ? b : next++;
        }
        return t;
    }();
    return table[byte];
}

void append_spelled(std::string& out, std::string_view bytes) {
    for (const char c : bytes) append_utf8(out, spell_byte(static_cast<std::uint8_t>(c)));
}

std::optional<std::string> unspell(std::string_view text) {
    static const auto table = [] {
        std::array<int, 0x144> t{};
        t.fill(-1);
        for (int b = 0; b < 256; ++b) t[spell_byte(static_cast<std::uint8_t>(b))] = b;
        return t;
    }();
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
        const Char c = char_at(text, at);
        if (c.code >= table.size() || table[c.code] < 0) return std::nullopt;
        out += static_cast<char>(static_cast<unsigned char>(table[c.code]));
        at += c.bytes;
    }
    return out;
}

}  // namespace thimble
