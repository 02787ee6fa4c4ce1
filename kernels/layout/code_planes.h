// SPDX-License-Identifier: Apache-2.0
// Codes of 32 columns x 16 rows in the order of interleaved layouts: column k, row r stands at byte
// j = 4 r + k % 4 of vector g = k / 4.
//   8 bits   codes[g][j]
//   4 bits   low[g % 4][j], low nibble if g < 4, else high nibble
//   2 bits   codes[g / 4][j], bits 2 (g % 4), 2 (g % 4) + 1
//   1 bit    bit j of the 64-bit word bits[g]
//   3, 5, 6  bits from 2 + 1, 4 + 1 and 4 + 2 of these planes
// A table of 16 values stores the 4-bit codes of values.
#pragma once

#include <cstdint>

namespace thimble {

template <int bits>
struct CodePlane;

template <>
struct CodePlane<1> {
    std::uint8_t bits[8][8];
    void set(int row, int column, int code) {
        const int j = 4 * row + column % 4;
        std::uint8_t& at = bits[column / 4][j / 8];
        at = static_cast<std::uint8_t>((at & ~(1 << j % 8)) | (code & 1) << j % 8);
    }
    [[nodiscard]] int get(int row, int column) const {
        const int j = 4 * row + column % 4;
        return bits[column / 4][j / 8] >> j % 8 & 1;
    }
};

template <>
struct CodePlane<2> {
    std::uint8_t codes[2][64];
    void set(int row, int column, int code) {
        const int g = column / 4, shift = 2 * (g % 4);
        std::uint8_t& at = codes[g / 4][4 * row + column % 4];
        at = static_cast<std::uint8_t>((at & ~(3 << shift)) | (code & 3) << shift);
    }
    [[nodiscard]] int get(int row, int column) const {
        const int g = column / 4;
        return codes[g / 4][4 * row + column % 4] >> 2 * (g % 4) & 3;
    }
};

template <>
struct CodePlane<4> {
    std::uint8_t low[4][64];
    void set(int row, int column, int code) {
        const int g = column / 4, shift = g < 4 ? 0 : 4;
        std::uint8_t& at = low[g % 4][4 * row + column % 4];
        at = static_cast<std::uint8_t>((at & ~(15 << shift)) | (code & 15) << shift);
    }
    [[nodiscard]] int get(int row, int column) const {
        const int g = column / 4;
        return (low[g % 4][4 * row + column % 4] >> (g < 4 ? 0 : 4)) & 15;
    }
};

template <>
struct CodePlane<8> {
    std::uint8_t codes[8][64];
    void set(int row, int column, int code) {
        codes[column / 4][4 * row + column % 4] = static_cast<std::uint8_t>(code);
    }
    [[nodiscard]] int get(int row, int column) const {
        return codes[column / 4][4 * row + column % 4];
    }
};

template <int low_bits, int high_bits>
struct SplitPlane {
    CodePlane<low_bits> low;
    CodePlane<high_bits> high;
    void set(int row, int column, int code) {
        low.set(row, column, code);
        high.set(row, column, code >> low_bits);
    }
    [[nodiscard]] int get(int row, int column) const {
        return low.get(row, column) | high.get(row, column) << low_bits;
    }
};
template <>
struct CodePlane<3> : SplitPlane<2, 1> {};
template <>
struct CodePlane<5> : SplitPlane<4, 1> {};
template <>
struct CodePlane<6> : SplitPlane<4, 2> {};

// Values: static int value(int code), and kOffset that makes every value positive. What is set and
// read is value + kOffset.
template <class Values>
struct TablePlane {
    CodePlane<4> codes;
    // Of two codes with one value (plus and minus zero) the lower.
    void set(int row, int column, int offset_value) {
        int code = 0;
        while (code < 15 && Values::value(code) + Values::kOffset != offset_value) ++code;
        codes.set(row, column, code);
    }
    [[nodiscard]] int get(int row, int column) const {
        return Values::value(codes.get(row, column)) + Values::kOffset;
    }
};

}  // namespace thimble
