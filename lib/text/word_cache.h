// SPDX-License-Identifier: Apache-2.0
// Remembers the tokens of short words during one encode call: natural text repeats its words.
// Direct-mapped; a collision simply replaces the older word.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <memory_resource>
#include <span>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace thimble {

class WordCache {
  public:
    WordCache(std::size_t text_bytes, std::pmr::memory_resource* memory)
        : entries_(std::bit_ceil(std::clamp<std::size_t>(text_bytes / 8, 1, kMostEntries)),
                   memory) {}
    [[nodiscard]] static constexpr std::size_t most_bytes() noexcept {
        return kMostEntries * sizeof(Entry);
    }

    // The word's tokens; empty when it is not there.
    [[nodiscard]] std::span<const Token> find(std::string_view word) const noexcept {
        if (word.size() > kBytes) return {};
        const Entry& entry = entries_[slot(word)];
        if (std::string_view(entry.text.data(), entry.bytes) != word) return {};
        return {entry.tokens.data(), entry.count};
    }
    void put(std::string_view word, std::span<const Token> tokens) noexcept {
        if (word.size() > kBytes || tokens.size() > kTokens) return;
        Entry& entry = entries_[slot(word)];
        entry.bytes = static_cast<std::uint8_t>(word.size());
        entry.count = static_cast<std::uint8_t>(tokens.size());
        std::copy(word.begin(), word.end(), entry.text.begin());
        std::copy(tokens.begin(), tokens.end(), entry.tokens.begin());
    }

  private:
    static constexpr std::size_t kBytes = 26, kTokens = 9, kMostEntries = 1 << 13;
    struct Entry {
        std::array<char, kBytes> text{};
        std::uint8_t bytes = 0, count = 0;
        std::array<Token, kTokens> tokens{};
    };
    [[nodiscard]] std::size_t slot(std::string_view word) const noexcept {
        std::uint64_t a = 0, b = 0;
        std::memcpy(&a, word.data(), std::min<std::size_t>(8, word.size()));
        if (word.size() > 8) {
            std::memcpy(&b, word.data() + word.size() - 8, 8);
        }
        const std::uint64_t h = (a * 0x9e3779b97f4a7c15u) ^ (b * 0xd6e8feb86659fd93u + word.size());
        return ((h ^ (h >> 29)) * 0x9e3779b97f4a7c15u >> 40) & (entries_.size() - 1);
    }
    std::pmr::vector<Entry> entries_;
};

}  // namespace thimble
