// SPDX-License-Identifier: Apache-2.0
// Greedy pair merging of one word: the best-ranked pair of neighbours first, the leftmost of
// equals. Symbols form a linked list in an array; candidates wait in a heap and are dropped when a
// neighbour has changed meanwhile: O(n log n), no recursion.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory_resource>
#include <optional>
#include <vector>

#include "text/tokenizer.h"

namespace thimble {

struct Symbol {
    std::size_t begin = 0, bytes = 0;  // in the word; bytes == 0: merged into its left neighbour
    std::uint32_t chars = 0;
    Token token = -1;  // -1: not in the vocabulary, never merges
    std::size_t previous = 0, next = 0;
};

// What two neighbours would become; lower (key, token) merges first.
struct MergeResult {
    std::uint64_t key = 0;
    Token token = -1;
};

class Merger {
  public:
    static constexpr std::size_t kNone = static_cast<std::size_t>(-1);

    explicit Merger(std::pmr::memory_resource* memory) : symbols_(memory), heap_(memory) {}

    // For words of up to `count` symbols. A merge adds at most two candidates to the pairs there
    // are at first; a vector that doubles holds three times its elements while it moves.
    [[nodiscard]] static constexpr std::size_t most_bytes(std::size_t count) noexcept {
        return 3 * (count * sizeof(Symbol) + 3 * count * sizeof(Candidate));
    }

    void clear() { symbols_.clear(); }
    void push(std::size_t begin, std::size_t bytes, Token token) {
        const std::size_t i = symbols_.size();
        if (i > 0) symbols_[i - 1].next = i;
        symbols_.push_back({begin, bytes, 1, token, i == 0 ? kNone : i - 1, kNone});
    }

    // rule(left, right) -> std::optional<MergeResult>
    template <class Rule>
    void run(const Rule& rule) {
        heap_.clear();
        for (std::size_t i = 0; i + 1 < symbols_.size(); ++i) consider(rule, i);
        while (!heap_.empty()) {
            std::pop_heap(heap_.begin(), heap_.end(), later);
            const Candidate best = heap_.back();
            heap_.pop_back();
            Symbol& left = symbols_[best.left];
            if (left.bytes == 0 || left.next == kNone) continue;
            Symbol& right = symbols_[left.next];
            if (left.bytes + right.bytes != best.bytes) continue;  // symbols only ever grow
            left.bytes = best.bytes;
            left.chars += right.chars;
            left.token = best.result.token;
            right.bytes = 0;
            left.next = right.next;
            if (left.next != kNone) symbols_[left.next].previous = best.left;
            if (left.previous != kNone) consider(rule, left.previous);
            consider(rule, best.left);
        }
    }

    template <class Fn>
    void for_each(const Fn& fn) const {
        for (std::size_t i = symbols_.empty() ? kNone : 0; i != kNone; i = symbols_[i].next) {
            fn(symbols_[i]);
        }
    }

  private:
    struct Candidate {
        MergeResult result;
        std::size_t left, bytes;
    };
    static bool later(const Candidate& a, const Candidate& b) noexcept {
        if (a.result.key != b.result.key) return a.result.key > b.result.key;
        if (a.result.token != b.result.token) return a.result.token > b.result.token;
        return a.left > b.left;
    }
    template <class Rule>
    void consider(const Rule& rule, std::size_t i) {
        const Symbol& left = symbols_[i];
        if (left.next == kNone) return;
        const Symbol& right = symbols_[left.next];
        if (left.token < 0 || right.token < 0) return;
        if (const std::optional<MergeResult> result = rule(left, right)) {
            heap_.push_back({*result, i, left.bytes + right.bytes});
            std::push_heap(heap_.begin(), heap_.end(), later);
        }
    }

    std::pmr::vector<Symbol> symbols_;
    std::pmr::vector<Candidate> heap_;
};

}  // namespace thimble
