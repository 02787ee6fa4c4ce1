// SPDX-License-Identifier: Apache-2.0
// The tables of one tokenizer: pieces with kind and score, merges, and the index of added tokens.
// Everything a file says is checked while it is added; every byte is counted as
// Purpose::kVocabulary, and predict_bytes() gives the same number from the sizes alone.
#pragma once

#include <array>
#include <cstdint>
#include <memory_resource>
#include <string>
#include <string_view>
#include <vector>

#include "core/ledger.h"
#include "text/tokenizer.h"

namespace thimble {

class Vocabulary {
  public:
    struct Sizes {
        std::uint64_t pieces = 0;
        std::uint64_t text_bytes = 0;  // all pieces together
        std::uint64_t added = 0;       // control and user-defined pieces
        std::uint64_t merges = 0;
        bool scores = false;
    };
    static constexpr std::size_t kMaxPieceBytes = 8191;
    static constexpr std::size_t kMaxAddedBytes = 1024;

    // `where` names the file in errors. Throws kBadData when a size is beyond what ids can count.
    Vocabulary(std::string where, const Sizes& sizes);
    Vocabulary(const Vocabulary&) = delete;
    Vocabulary& operator=(const Vocabulary&) = delete;
    // Bytes the ledger holds for a vocabulary of these sizes.
    [[nodiscard]] static std::uint64_t predict_bytes(const Sizes& sizes);

    // Pieces in id order; duplicates, overlong pieces and scores that are not finite are refused.
    void add_piece(std::string_view piece, TokenKind kind, float score);
    // In rank order; both sides and their concatenation must be pieces. A merge that would make a
    // control, byte or unknown token is kept for writing but never applied.
    void add_merge(std::string_view left, std::string_view right);
    // After the last add: sorts the added tokens. Throws when fewer pieces came than announced.
    void finish();

    [[nodiscard]] std::size_t size() const noexcept { return kinds_.size(); }
    [[nodiscard]] bool contains(Token token) const noexcept {
        return token >= 0 && static_cast<std::size_t>(token) < kinds_.size();
    }
    [[nodiscard]] Token find(std::string_view piece) const noexcept;  // -1: none
    [[nodiscard]] std::string_view piece(Token token) const noexcept;
    [[nodiscard]] TokenKind kind(Token token) const noexcept { return kinds_[index(token)]; }
    [[nodiscard]] float score(Token token) const noexcept { return scores_[index(token)]; }
    [[nodiscard]] bool has_scores() const noexcept { return !scores_.empty(); }
    // Plain text may become this token.
    [[nodiscard]] bool is_text(Token token) const noexcept {
        return kind(token) == TokenKind::kNormal || kind(token) == TokenKind::kUserDefined;
    }

    struct Merge {
        Token left = -1, right = -1;
        std::uint32_t rank = 0;
        Token result = -1;  // -1: never applied
    };
    [[nodiscard]] const Merge* find_merge(Token left, Token right) const noexcept;
    [[nodiscard]] std::size_t merges() const noexcept { return merge_count_; }
    [[nodiscard]] std::vector<Merge> merges_by_rank() const;

    // The longest added token at the start of `text`, control tokens only if asked; -1: none.
    [[nodiscard]] Token match_added(std::string_view text, bool control) const noexcept;
    // Whether an added token starts with this byte.
    [[nodiscard]] bool starts_added(char first) const noexcept {
        return added_first_[static_cast<unsigned char>(first)];
    }

    [[nodiscard]] const std::string& where() const noexcept { return where_; }

  private:
    static std::size_t index(Token token) noexcept { return static_cast<std::size_t>(token); }
    [[nodiscard]] std::size_t piece_slot(std::string_view piece) const noexcept;
    [[nodiscard]] std::size_t merge_slot(Token left, Token right) const noexcept;

    std::string where_;
    Sizes sizes_;
    CountingResource memory_{Purpose::kVocabulary};
    std::pmr::vector<char> text_{&memory_};
    std::pmr::vector<std::uint32_t> ends_{&memory_};  // piece i is text_[ends_[i], ends_[i + 1])
    std::pmr::vector<TokenKind> kinds_{&memory_};
    std::pmr::vector<float> scores_{&memory_};
    std::pmr::vector<Token> slots_{&memory_};        // open addressing by hash of the piece
    std::pmr::vector<Merge> merge_slots_{&memory_};  // open addressing by (left, right)
    std::pmr::vector<Token> added_{&memory_};        // sorted by piece
    std::size_t merge_count_ = 0;
    std::array<bool, 256> added_first_{};
};

}  // namespace thimble
