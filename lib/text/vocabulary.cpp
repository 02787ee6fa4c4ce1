// SPDX-License-Identifier: Apache-2.0
#include "text/vocabulary.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace thimble {
namespace {

// At most half of the slots are taken, so that a search ends soon.
std::uint64_t slot_count(std::uint64_t items) { return items == 0 ? 0 : std::bit_ceil(2 * items); }

constexpr std::uint64_t kMaxItems = std::uint64_t{1} << 24;

std::uint64_t mix(std::uint64_t x) noexcept {
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ (x >> 32);
}

std::uint64_t hash(std::string_view text) noexcept {
    std::uint64_t h = 0xcbf29ce484222325u;
    for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    return mix(h);
}

}  // namespace

Vocabulary::Vocabulary(std::string where, const Sizes& sizes)
    : where_(std::move(where)), sizes_(sizes) {
    if (sizes.pieces == 0 || sizes.pieces > kMaxItems || sizes.merges > kMaxItems ||
        sizes.text_bytes > std::numeric_limits<std::uint32_t>::max()) {
        throw Error(Exit::kBadData, where_,
                    std::to_string(sizes.pieces) + " pieces of " +
                        std::to_string(sizes.text_bytes) + " bytes and " +
                        std::to_string(sizes.merges) + " merges",
                    "a vocabulary has 1 to 2^24 pieces and merges and less than 4 GiB of text");
    }
    text_.reserve(sizes.text_bytes);
    ends_.reserve(sizes.pieces + 1);
    ends_.push_back(0);
    kinds_.reserve(sizes.pieces);
    if (sizes.scores) scores_.reserve(sizes.pieces);
    slots_.resize(slot_count(sizes.pieces), -1);
    merge_slots_.resize(slot_count(sizes.merges));
    added_.reserve(sizes.added);
}

std::uint64_t Vocabulary::predict_bytes(const Sizes& sizes) {
    return sizes.text_bytes + (sizes.pieces + 1) * sizeof(std::uint32_t) +
           sizes.pieces * sizeof(TokenKind) + (sizes.scores ? sizes.pieces * sizeof(float) : 0) +
           slot_count(sizes.pieces) * sizeof(Token) + slot_count(sizes.merges) * sizeof(Merge) +
           sizes.added * sizeof(Token);
}

std::string_view Vocabulary::piece(Token token) const noexcept {
    const std::size_t i = index(token);
    return {text_.data() + ends_[i], ends_[i + 1] - ends_[i]};
}

std::size_t Vocabulary::piece_slot(std::string_view text) const noexcept {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = hash(text) & mask;
    while (slots_[slot] >= 0 && piece(slots_[slot]) != text) slot = (slot + 1) & mask;
    return slot;
}

Token Vocabulary::find(std::string_view text) const noexcept { return slots_[piece_slot(text)]; }

void Vocabulary::add_piece(std::string_view text, TokenKind kind, float score) {
    const auto refuse = [&](const std::string& why) -> Error {
        return {Exit::kBadData, where_,
                "token " + std::to_string(size()) + " '" + escaped(text, 40) + "' " + why};
    };
    const bool added = kind == TokenKind::kControl || kind == TokenKind::kUserDefined;
    if (size() == sizes_.pieces || text.size() > sizes_.text_bytes - text_.size() ||
        (added && added_.size() == sizes_.added)) {
        throw refuse("is beyond the sizes announced");
    }
    if (text.size() > (added ? kMaxAddedBytes : kMaxPieceBytes)) {
        throw refuse("has " + std::to_string(text.size()) + " bytes, the limit is " +
                     std::to_string(added ? kMaxAddedBytes : kMaxPieceBytes));
    }
    if (!std::isfinite(score)) throw refuse("has a score that is not finite");
    const std::size_t slot = piece_slot(text);
    if (slots_[slot] >= 0) {
        throw refuse("has the same text as token " + std::to_string(slots_[slot]));
    }
    slots_[slot] = static_cast<Token>(size());
    if (added) added_.push_back(static_cast<Token>(size()));
    text_.insert(text_.end(), text.begin(), text.end());
    ends_.push_back(static_cast<std::uint32_t>(text_.size()));
    kinds_.push_back(kind);
    if (sizes_.scores) scores_.push_back(score);
}

std::size_t Vocabulary::merge_slot(Token left, Token right) const noexcept {
    const std::size_t mask = merge_slots_.size() - 1;
    const auto key = static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint64_t>(right);
    std::size_t slot = mix(key) & mask;
    for (;; slot = (slot + 1) & mask) {
        const Merge& merge = merge_slots_[slot];
        if (merge.left < 0 || (merge.left == left && merge.right == right)) return slot;
    }
}

const Vocabulary::Merge* Vocabulary::find_merge(Token left, Token right) const noexcept {
    if (merge_slots_.empty()) return nullptr;
    const Merge& merge = merge_slots_[merge_slot(left, right)];
    return merge.left < 0 ? nullptr : &merge;
}

void Vocabulary::add_merge(std::string_view left, std::string_view right) {
    const auto refuse = [&](const std::string& why) -> Error {
        return {Exit::kBadData, where_,
                "merge " + std::to_string(merge_count_) + " '" + escaped(left, 40) + "' + '" +
                    escaped(right, 40) + "' " + why};
    };
    if (merge_count_ == sizes_.merges) throw refuse("is beyond the sizes announced");
    const Token l = find(left), r = find(right);
    const Token result = find(std::string(left).append(right));
    if (l < 0 || r < 0 || result < 0) throw refuse("names a piece that is not in the vocabulary");
    Merge& merge = merge_slots_[merge_slot(l, r)];
    if (merge.left >= 0) throw refuse("is listed twice");
    merge = {l, r, static_cast<std::uint32_t>(merge_count_++), is_text(result) ? result : -1};
}

std::vector<Vocabulary::Merge> Vocabulary::merges_by_rank() const {
    std::vector<Merge> out(merge_count_);
    for (const Merge& merge : merge_slots_) {
        if (merge.left >= 0) out[merge.rank] = merge;
    }
    return out;
}

void Vocabulary::finish() {
    if (size() != sizes_.pieces || merge_count_ != sizes_.merges) {
        throw Error(Exit::kBadData, where_,
                    std::to_string(size()) + " pieces and " + std::to_string(merge_count_) +
                        " merges where " + std::to_string(sizes_.pieces) + " and " +
                        std::to_string(sizes_.merges) + " were announced");
    }
    std::erase_if(added_, [&](Token t) { return piece(t).empty(); });
    std::sort(added_.begin(), added_.end(), [&](Token a, Token b) { return piece(a) < piece(b); });
    for (const Token t : added_) {
        added_first_[static_cast<unsigned char>(piece(t).front())] = true;
    }
}

Token Vocabulary::match_added(std::string_view text, bool control) const noexcept {
    if (text.empty() || !starts_added(text.front())) return -1;
    // [first, last) are the added tokens that share the text's first `length` bytes.
    Token best = -1;
    auto first = added_.begin(), last = added_.end();
    for (std::size_t length = 0; length < text.size(); ++length) {
        const auto next = static_cast<unsigned char>(text[length]);
        const auto at = [&](Token t) -> int {
            const std::string_view p = piece(t);
            return p.size() > length ? static_cast<unsigned char>(p[length]) : -1;
        };
        first = std::lower_bound(first, last, next, [&](Token t, int c) { return at(t) < c; });
        last = std::upper_bound(first, last, next, [&](int c, Token t) { return c < at(t); });
        if (first == last) break;
        const bool whole = piece(*first).size() == length + 1;
        if (whole && (control || kind(*first) != TokenKind::kControl)) best = *first;
    }
    return best;
}

}  // namespace thimble
