// SPDX-License-Identifier: Apache-2.0
// Numbers whose exponents are coded: those of trained weights take few values, so that a bfloat16
// needs about 11 bits without losing one ("70% Size, 100% Accuracy: Lossless LLM Compression for
// Efficient GPU Inference via Dynamic-Length Float (DFloat11)", 2025). This layout is ours: 32
// streams side by side, which vectors and warps read in step.
//
// A symbol is one of the up to 15 most frequent exponents, or kEscape for all others. Codes of
// symbols are canonical prefix codes of at most 8 bits, so that 256 bytes decode them: code_table.
// Chunks of kChunk numbers, the last shorter, are words of 16 bits:
//
//   word 0                 how many exponents are escaped
//   words 1 ..             their bytes in order, two a word, low byte first
//   then                   codes of the streams: number i of a chunk belongs to stream i % 32
//
// A stream is its codes one after the other, the first bit in a word's top bit; past the last
// number come zeros. Streams' words lie in the order in which this reader wants them:
//   while numbers are left: for each stream in order, if it has less than 16 bits at hand, a word;
//                           then two numbers of each stream
#pragma once

#include <cstdint>

namespace thimble {

struct ExponentCode {
    static constexpr int kStreams = 32;
    static constexpr int kChunk = 32768;
    static constexpr int kSymbols = 16, kEscape = 15;
    static constexpr int kLongest = 8;          // bits of a code
    static constexpr int kStep = 2 * kStreams;  // numbers between two looks for words
    static constexpr int kWordBits = 16;

    std::uint8_t exponents[kSymbols] = {};  // of symbols; the last, and those without code, are 0
    std::uint8_t lengths[kSymbols] = {};    // bits of a symbol's code; 0: it has none

    // Whether each row of bits begins with exactly one code. One symbol alone has a code of one
    // bit, and any bit stands for it.
    [[nodiscard]] bool sound() const noexcept {
        int sum = 0, count = 0;
        for (const std::uint8_t length : lengths) {
            if (length > kLongest) return false;
            if (length == 0) continue;
            sum += 1 << (kLongest - length);
            ++count;
        }
        return sum == 1 << kLongest || (count == 1 && sum == 1 << (kLongest - 1));
    }
    // Shorter codes come first, those of a length in the order of their symbols.
    void codes(std::uint8_t out[kSymbols]) const noexcept {
        int next = 0;
        for (int length = 1; length <= kLongest; ++length) {
            next <<= 1;
            for (int s = 0; s < kSymbols; ++s) {
                if (lengths[s] == length) out[s] = static_cast<std::uint8_t>(next++);
            }
        }
    }
    // Of the next eight bits: length << 4 | symbol. Of a sound code.
    void table(std::uint8_t out[256]) const noexcept {
        std::uint8_t of[kSymbols] = {};
        codes(of);
        for (int s = 0; s < kSymbols; ++s) {
            if (lengths[s] == 0) continue;
            const int free = kLongest - lengths[s], first = of[s] << free;
            const bool alone = lengths[s] == 1 && !other(s);
            for (int i = alone ? 0 : first; i < (alone ? 256 : first + (1 << free)); ++i)
                out[i] = static_cast<std::uint8_t>(lengths[s] << 4 | s);
        }
    }

  private:
    [[nodiscard]] bool other(int symbol) const noexcept {
        for (int s = 0; s < kSymbols; ++s) {
            if (s != symbol && lengths[s] != 0) return true;
        }
        return false;
    }
};

}  // namespace thimble
