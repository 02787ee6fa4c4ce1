// SPDX-License-Identifier: Apache-2.0
// Numbers whose exponents are coded: those of trained weights take few values, so that a bfloat16
// needs about 11 bits without losing one ("70% Size, 100% Accuracy: Lossless LLM Compression for
// Efficient GPU Inference via Dynamic-Length Float (DFloat11)", 2025). This layout is ours: 32
// streams side by side, which vectors and warps read in step.
//
// A symbol is one of the up to 15 most frequent exponents, or kEscape for all others. Codes of
// symbols are canonical prefix codes of at most 7 bits, so that 128 bytes, two vectors, decode
// them. A chunk of at most kChunk numbers (ExponentChunks says which) is words of 16 bits:
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
    static constexpr int kLongest = 7;  // bits of a code
    static constexpr int kTable = 1 << kLongest;
    static constexpr int kBlock = 512;          // numbers that a vector decodes between two looks
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
    // Of the next kLongest bits: length << 4 | symbol. Of a sound code.
    void table(std::uint8_t out[kTable]) const noexcept {
        std::uint8_t of[kSymbols] = {};
        codes(of);
        for (int s = 0; s < kSymbols; ++s) {
            if (lengths[s] == 0) continue;
            const int free = kLongest - lengths[s], first = of[s] << free;
            const bool alone = lengths[s] == 1 && !other(s);
            for (int i = alone ? 0 : first; i < (alone ? kTable : first + (1 << free)); ++i)
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

// A matrix's numbers in chunks. Its rows are taken by groups of 16, the last maybe smaller, and a
// group a column at a time: so the layouts of woven rows hold them (twin.h), and a chunk is decoded
// straight into what a product reads. A strip is as many groups as fit a chunk, or one group in
// several chunks of one size, the last smaller or empty: no two strips share a chunk.
struct ExponentChunks {
    static constexpr std::int64_t kGroup = 16;
    // So that a strip is of bounded size.
    static constexpr std::int64_t kMostCols = std::int64_t{1} << 20;

    std::int64_t rows = 1, cols = 1;

    [[nodiscard]] constexpr std::int64_t numbers() const noexcept { return rows * cols; }
    [[nodiscard]] constexpr std::int64_t group_rows() const noexcept {
        return rows < kGroup ? rows : kGroup;
    }
    [[nodiscard]] constexpr std::int64_t strip_rows() const noexcept {
        const std::int64_t group = group_rows() * cols;
        return group_rows() * (group < ExponentCode::kChunk ? ExponentCode::kChunk / group : 1);
    }
    [[nodiscard]] constexpr std::int64_t strip_numbers() const noexcept {
        return strip_rows() * cols;
    }
    [[nodiscard]] constexpr std::int64_t strips() const noexcept {
        return (rows + strip_rows() - 1) / strip_rows();
    }
    [[nodiscard]] constexpr std::int64_t rows_of(std::int64_t strip) const noexcept {
        const std::int64_t left = rows - strip * strip_rows();
        return left < strip_rows() ? left : strip_rows();
    }
    [[nodiscard]] constexpr std::int64_t chunks_of_strip() const noexcept {
        return (strip_numbers() + ExponentCode::kChunk - 1) / ExponentCode::kChunk;
    }
    [[nodiscard]] constexpr std::int64_t chunks() const noexcept {
        return strips() * chunks_of_strip();
    }
    // Chunk `c` of a strip begins there, of the strip's numbers; with chunks_of_strip(), its end.
    [[nodiscard]] constexpr std::int64_t start(std::int64_t strip, std::int64_t c) const noexcept {
        const std::int64_t parts = chunks_of_strip();
        const std::int64_t even = (strip_numbers() + parts - 1) / parts;
        const std::int64_t size =
            (even + ExponentCode::kBlock - 1) / ExponentCode::kBlock * ExponentCode::kBlock;
        const std::int64_t all = rows_of(strip) * cols;
        return c == parts || c * size > all ? all : c * size;
    }
    // A strip's numbers from its rows, one row after the other, and back: of rows [first, end) of
    // the strip.
    void weave(std::int64_t strip, const std::uint16_t* from, std::uint16_t* numbers) const {
        for (std::int64_t g = 0; g < rows_of(strip); g += kGroup) {
            const std::int64_t height = height_of(strip, g);
            std::uint16_t* to = numbers + g * cols;
            for (std::int64_t k = 0; k < cols; ++k)
                for (std::int64_t r = 0; r < height; ++r) *to++ = from[(g + r) * cols + k];
        }
    }
    void unweave(std::int64_t strip, std::int64_t first, std::int64_t end,
                 const std::uint16_t* numbers, std::uint16_t* to) const {
        for (std::int64_t r = first; r < end; ++r) {
            const std::int64_t g = r / kGroup * kGroup, height = height_of(strip, g);
            const std::uint16_t* from = numbers + g * cols + (r - g);
            for (std::int64_t k = 0; k < cols; ++k) *to++ = from[k * height];
        }
    }
    // Of the group that begins with row `g` of a strip.
    [[nodiscard]] constexpr std::int64_t height_of(std::int64_t strip,
                                                   std::int64_t g) const noexcept {
        const std::int64_t left = rows_of(strip) - g;
        return left < kGroup ? left : kGroup;
    }
};

}  // namespace thimble
