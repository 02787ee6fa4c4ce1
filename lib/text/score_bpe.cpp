// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <tuple>

#include "core/error.h"
#include "text/bpe.h"
#include "text/unicode.h"

namespace thimble {
namespace {

// Higher scores first; user-defined pieces before all others. Among equal scores the pair with the
// longer left part comes first, then the longer right part: the order in which converters list
// merges, so that a vocabulary with scores and one with merges cut every text alike.
std::uint64_t merge_key(const Vocabulary& vocabulary, Token token, const Symbol& left,
                        const Symbol& right) {
    std::uint32_t order = 0;
    if (vocabulary.kind(token) != TokenKind::kUserDefined) {
        const auto bits = std::bit_cast<std::uint32_t>(vocabulary.score(token) + 0.0f);  // no -0
        order = bits >> 31 != 0 ? bits : ~(bits | 0x80000000u);
    }
    return std::uint64_t{order} << 32 | std::uint64_t{0xffff - left.chars} << 16 |
           std::uint64_t{0xffff - right.chars};
}

void append_marked(std::string& out, std::string_view text) {
    for (const char c : text) {
        if (c == ' ') {
            out += kSpaceMark;
        } else {
            out += c;
        }
    }
}

}  // namespace

ScoreBpe::ScoreBpe(std::unique_ptr<Vocabulary> vocabulary, TokenizerRules rules)
    : BpeTokenizer(std::move(vocabulary), rules, rules.add_bos.value_or(true),
                   rules.add_eos.value_or(false)),
      space_prefix_(rules.add_space_prefix.value_or(true)),
      prefix_first_only_(rules.prefix_first_only),
      unknown_(rules.id("unknown")) {
    byte_tokens_.fill(-1);
    ascii_.fill(-1);
    for (Token token = 0; token < static_cast<Token>(vocabulary_->size()); ++token) {
        const std::string_view text = vocabulary_->piece(token);
        if (vocabulary_->kind(token) == TokenKind::kByte) {
            const int byte = parse_byte_piece(text);
            if (byte < 0) {
                throw Error(Exit::kBadData, vocabulary_->where(),
                            "byte token " + std::to_string(token) + " is spelled '" +
                                escaped(text, 40) + "'",
                            "expected <0x00> to <0xFF>");
            }
            byte_tokens_[static_cast<std::size_t>(byte)] = token;
        }
        if (!vocabulary_->is_text(token)) continue;
        if (text.size() == 1 && static_cast<unsigned char>(text[0]) < 128) {
            ascii_[static_cast<unsigned char>(text[0])] = token;
        }
        for (std::size_t at = text.find(kSpaceMark); at != std::string_view::npos;
             at = text.find(kSpaceMark, at + kSpaceMark.size())) {
            if (at > 0) joins_space_[static_cast<unsigned char>(text[at - 1])] = true;
        }
    }
    // A mark after a mark never needs a cut.
    joins_space_[static_cast<unsigned char>(kSpaceMark.back())] = true;
}

// Merges cannot reach over the border before a space mark unless some piece holds that border.
std::size_t ScoreBpe::word_end(std::string_view text, std::size_t at) const noexcept {
    for (std::size_t end = at + 1; end < text.size(); ++end) {
        const bool space = text[end] == ' ' || text.substr(end).starts_with(kSpaceMark);
        if (!space || text[end - 1] == ' ') continue;
        if (!joins_space_[static_cast<unsigned char>(text[end - 1])]) return end;
    }
    return text.size();
}

void ScoreBpe::encode_plain(std::string_view text, Work& work) const {
    bool prefix = space_prefix_ && (work.at_start || !prefix_first_only_);
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = word_end(text, at);
        const std::string_view word = text.substr(at, end - at);
        at = end;
        std::vector<Token>& out = *work.out;
        const std::span<const Token> known =
            prefix ? std::span<const Token>{} : work.cache.find(word);
        if (!known.empty()) {
            out.insert(out.end(), known.begin(), known.end());
            continue;
        }
        work.word = prefix ? kSpaceMark : std::string_view{};
        append_marked(work.word, word);
        const std::size_t before = out.size();
        encode_word(work);
        if (!prefix) work.cache.put(word, std::span(out).subspan(before));
        prefix = false;
    }
}

void ScoreBpe::encode_word(Work& work) const {
    const std::string_view word = work.word;
    work.merger.clear();
    for (std::size_t at = 0; at < word.size();) {
        const Char c = char_at(word, at);
        Token token = -1;
        if (c.bytes > 1) {
            token = vocabulary_->find(word.substr(at, c.bytes));
            if (token >= 0 && !vocabulary_->is_text(token)) token = -1;
        } else if (c.code < 128) {
            token = ascii_[c.code];
        }
        work.merger.push(at, c.bytes, token);
        at += c.bytes;
    }
    if (vocabulary_->merges() > 0) {
        work.merger.run([&](const Symbol& left, const Symbol& right) -> std::optional<MergeResult> {
            const Vocabulary::Merge* merge = vocabulary_->find_merge(left.token, right.token);
            if (merge == nullptr || merge->result < 0) return std::nullopt;
            return MergeResult{merge->rank, merge->result};
        });
    } else {
        work.merger.run([&](const Symbol& left, const Symbol& right) -> std::optional<MergeResult> {
            const std::size_t bytes = left.bytes + right.bytes;
            if (bytes > Vocabulary::kMaxPieceBytes) return std::nullopt;
            const Token token = vocabulary_->find(word.substr(left.begin, bytes));
            if (token < 0 || !vocabulary_->is_text(token)) return std::nullopt;
            return MergeResult{merge_key(*vocabulary_, token, left, right), token};
        });
    }
    bool after_unknown = false;
    work.merger.for_each([&](const Symbol& symbol) {
        if (symbol.token >= 0) {
            work.out->push_back(symbol.token);
        } else {
            push_unknown(word.substr(symbol.begin, symbol.bytes), after_unknown, *work.out);
        }
        after_unknown = symbol.token < 0 && work.out->size() > 0 && work.out->back() == unknown_;
    });
}

std::vector<BpeTokenizer::MergePair> ScoreBpe::merge_list() const {
    if (vocabulary_->merges() > 0) return BpeTokenizer::merge_list();
    constexpr std::size_t kMostBytes = 1024;  // of a piece: the work grows with their square
    std::vector<MergePair> out;
    // Every cut of every piece into two others, in ascending order of the first; counted, then
    // collected.
    std::size_t count = 0;
    const auto for_each = [&](const auto& take) {
        for (Token result = 0; result < static_cast<Token>(vocabulary_->size()); ++result) {
            const std::string_view text = vocabulary_->piece(result);
            if (!vocabulary_->is_text(result)) continue;
            if (text.size() > kMostBytes) {
                throw Error(
                    Exit::kBadData, vocabulary_->where(),
                    "token " + std::to_string(result) + " has " + std::to_string(text.size()) +
                        " bytes",
                    "to list merges, at most " + std::to_string(kMostBytes) + " are accepted");
            }
            std::uint32_t chars = 0;
            for (std::size_t at = 0; at < text.size(); at += char_at(text, at).bytes) ++chars;
            std::uint32_t before = 0;
            for (std::size_t at = 0; at < text.size(); ++before) {
                const Token left = at == 0 ? -1 : vocabulary_->find(text.substr(0, at));
                const Token right = left < 0 ? -1 : vocabulary_->find(text.substr(at));
                if (right >= 0 && vocabulary_->is_text(left) && vocabulary_->is_text(right))
                    take(result, left, before, right, chars - before);
                at += char_at(text, at).bytes;
            }
        }
    };
    for_each([&](Token, Token, std::uint32_t, Token, std::uint32_t) { ++count; });
    out.reserve(count);
    for_each([&](Token result, Token left, std::uint32_t left_chars, Token right,
                 std::uint32_t right_chars) {
        Symbol l, r;
        l.chars = left_chars;
        r.chars = right_chars;
        out.push_back({merge_key(*vocabulary_, result, l, r), result, left, right});
    });
    std::sort(out.begin(), out.end(), [](const MergePair& a, const MergePair& b) {
        return std::tie(a.key, a.result) < std::tie(b.key, b.result);
    });
    return out;
}

void ScoreBpe::push_unknown(std::string_view bytes, bool after_unknown,
                            std::vector<Token>& out) const {
    bool covered = true;
    for (const char c : bytes) covered &= byte_tokens_[static_cast<unsigned char>(c)] >= 0;
    if (covered) {
        for (const char c : bytes) out.push_back(byte_tokens_[static_cast<unsigned char>(c)]);
    } else if (unknown_ >= 0 && !after_unknown) {
        out.push_back(unknown_);
    }
}

std::string ScoreBpe::piece(Token token, bool render_special) const {
    if (!vocabulary_->contains(token)) return {};
    const std::string_view text = vocabulary_->piece(token);
    switch (vocabulary_->kind(token)) {
        case TokenKind::kControl:
        case TokenKind::kUnknown:
            return render_special ? std::string(text) : std::string{};
        case TokenKind::kByte:
            return {static_cast<char>(static_cast<unsigned char>(parse_byte_piece(text)))};
        default:
            break;
    }
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
        if (text.substr(at).starts_with(kSpaceMark)) {
            out += ' ';
            at += kSpaceMark.size();
        } else {
            out += text[at++];
        }
    }
    return out;
}

}  // namespace thimble
