// SPDX-License-Identifier: Apache-2.0
// Codes of 32 columns x 16 rows in the order of interleaved layouts: column k, row r stands at byte
// j = 4 r + k % 4 of vector g = k / 4.
//   8 bits   codes[g][j]
//   4 bits   low[g % 4][j], low nibble if g < 4, else high nibble
//   2 bits   codes[g / 4][j], bits 2 (g % 4), 2 (g % 4) + 1
//   1 bit    bit j of the 64-bit word bits[g]
//   3, 5, 6  bits from 2 + 1, 4 + 1 and 4 + 2 of these planes
// A table of 16 values stores the 4-bit codes of values.
// set_row sets all 32 columns of a row at once.
#pragma once

#include <cstdint>
#include <cstring>

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
    void set_row(int row, const std::uint8_t* of_columns) {
        const int shift = 4 * (row % 2);
        for (int g = 0; g < 8; ++g) {
            int four = 0;
            for (int c = 0; c < 4; ++c) four |= (of_columns[4 * g + c] & 1) << c;
            std::uint8_t& at = bits[g][row / 2];
            at = static_cast<std::uint8_t>((at & ~(15 << shift)) | four << shift);
        }
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
    void set_row(int row, const std::uint8_t* of_columns) {
        for (int h = 0; h < 2; ++h) {
            for (int c = 0; c < 4; ++c) {
                int byte = 0;
                for (int q = 0; q < 4; ++q) byte |= (of_columns[16 * h + 4 * q + c] & 3) << 2 * q;
                codes[h][4 * row + c] = static_cast<std::uint8_t>(byte);
            }
        }
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
    void set_row(int row, const std::uint8_t* of_columns) {
        for (int g = 0; g < 4; ++g) {
            for (int c = 0; c < 4; ++c) {
                const int k = 4 * g + c, byte = (of_columns[k] & 15) | of_columns[k + 16] << 4;
                low[g][4 * row + c] = static_cast<std::uint8_t>(byte);
            }
        }
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
    void set_row(int row, const std::uint8_t* of_columns) {
        for (int g = 0; g < 8; ++g) std::memcpy(codes[g] + 4 * row, of_columns + 4 * g, 4);
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
    void set_row(int row, const std::uint8_t* of_columns) {
        std::uint8_t rest[32];
        for (int k = 0; k < 32; ++k) rest[k] = static_cast<std::uint8_t>(of_columns[k] >> low_bits);
        low.set_row(row, of_columns);
        high.set_row(row, rest);
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
    static constexpr int code_of(int offset_value) {
        int code = 0;
        while (code < 15 && Values::value(code) + Values::kOffset != offset_value) ++code;
        return code;
    }
    void set(int row, int column, int offset_value) {
        codes.set(row, column, code_of(offset_value));
    }
    void set_row(int row, const std::uint8_t* of_columns) {
        struct Codes {
            std::uint8_t of[256];
        };
        static constexpr Codes kCodes = [] {
            Codes table{};
            for (int v = 0; v < 256; ++v) table.of[v] = static_cast<std::uint8_t>(code_of(v));
            return table;
        }();
        std::uint8_t named[32];
        for (int k = 0; k < 32; ++k) named[k] = kCodes.of[of_columns[k]];
        codes.set_row(row, named);
    }
    [[nodiscard]] int get(int row, int column) const {
        return Values::value(codes.get(row, column)) + Values::kOffset;
    }
};

}  // namespace thimble
