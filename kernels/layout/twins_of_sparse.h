// SPDX-License-Identifier: Apache-2.0
// Resident twins of layout sparse: 16 rows woven together as in twin.h, but with the kept weights
// alone, in the order in which lanes take them. A group of 16 rows is, for C columns and S slots,
//   masks    2 C bytes: of 16 bits a word of 32 bits for every two columns, bit 2 r + k % 2; of
//            codes a word of 64 bits for every four, bit 4 r + k % 4 (row r, column k)
//   scales   [C / group][16] f16, of codes
//   values   16 S of them, in the order of the masks' bits: f16 or bf16; codes of 8 bits as
//            code + 128; of 4 bits as code + 8, two to a byte, the lower first
//   64 bytes that may be read past the last value, and what makes the group a multiple of 64
// so one expansion gives two columns, or four, of all sixteen rows.
#pragma once

#include <cstddef>
#include <cstring>

#include "kernels/layout/twin.h"

namespace thimble {

// What a group's parts take, in bytes.
struct SparseGroup {
    std::size_t masks, scales, values;
    THIMBLE_HOST_DEVICE static SparseGroup of(const LayoutParams& params, std::int64_t cols) {
        const auto c = static_cast<std::size_t>(cols), s = static_cast<std::size_t>(params.slots);
        const std::size_t groups =
            params.group > 0 ? c / static_cast<std::size_t>(params.group) : 0;
        return {2 * c, groups * kGroupRows * sizeof(std::uint16_t),
                kGroupRows * s * static_cast<std::size_t>(params.bits) / 8};
    }
    [[nodiscard]] std::size_t bytes() const {
        return (masks + scales + values + 64 + 63) & ~std::size_t{63};
    }
};

// bits: of a value; together: columns of one mask word.
template <int bits, class Word>
struct WovenSparse {
    static constexpr LayoutId kStored = LayoutId::k_sparse;
    using L = Layout<kStored>;
    using Mask = Word;
    struct Block {
        Word mask;
    };
    static constexpr bool kWoven = true;
    static constexpr bool kCodes = bits < 16;
    static constexpr int kElements = kCodes ? L::kElements : 1;  // codes have a scale for so many
    static constexpr int kBits = bits, kOffset = kCodes ? 1 << (bits - 1) : 0, kScales = 1;
    static constexpr bool kMinimum = false;
    static constexpr int kTogether = static_cast<int>(sizeof(Word)) / 2;
    static bool fits(const LayoutParams& params) { return params.bits == bits; }

    static Word bit_of(int row, int column) {
        return static_cast<Word>(Word{1} << (kTogether * row + column));
    }

    // `rows` stored rows, at most 16, into a group that is all zero.
    static void weave(const PackedRow* rows, int count, std::int64_t cols, std::byte* group) {
        const LayoutParams& params = rows[0].params;
        const SparseGroup parts = SparseGroup::of(params, cols);
        auto* masks = reinterpret_cast<Word*>(group);
        auto* scales = reinterpret_cast<std::uint16_t*>(group + parts.masks);
        std::byte* values = group + parts.masks + parts.scales;
        std::int64_t next[kGroupRows] = {}, n = 0;
        for (std::int64_t word = 0; word < cols / 32; ++word) {
            std::uint32_t kept[kGroupRows];
            for (int r = 0; r < count; ++r) kept[r] = L::mask_word(rows[r], word);
            for (int first = 0; first < 32; first += kTogether) {
                Word mask = 0;
                for (int r = 0; r < count; ++r) {
                    const Word own = static_cast<Word>(kept[r] >> first & ((1u << kTogether) - 1));
                    mask |= static_cast<Word>(own << kTogether * r);
                    for (int left = __builtin_popcountll(own); left > 0; --left)
                        put(values, n++, rows[r], next[r]++);
                }
                masks[(32 * word + first) / kTogether] = mask;
            }
        }
        for (std::int64_t g = 0; kCodes && g < cols / params.group; ++g) {
            for (int r = 0; r < count; ++r)
                scales[g * kGroupRows + r] =
                    static_cast<const std::uint16_t*>(rows[r].planes[L::kScales])[g];
        }
    }

    template <class Real>
    static void unpack_row(const std::byte* group, int row, const LayoutParams& params,
                           std::int64_t cols, Real* out) {
        const SparseGroup parts = SparseGroup::of(params, cols);
        const auto* masks = reinterpret_cast<const Word*>(group);
        const auto* scales = reinterpret_cast<const std::uint16_t*>(group + parts.masks);
        const std::byte* values = group + parts.masks + parts.scales;
        std::int64_t n = 0;
        for (std::int64_t k = 0; k < cols; k += kTogether) {
            const Word mask = masks[k / kTogether];
            for (int c = 0; c < kTogether; ++c) {
                const Word own = bit_of(row, c);
                out[k + c] = 0;
                if ((mask & own) == 0) continue;
                const std::int64_t at = n + __builtin_popcountll(mask & static_cast<Word>(own - 1));
                if constexpr (kCodes) {
                    const float scale = f16_to_f32(scales[k / params.group * kGroupRows + row]);
                    out[k + c] = static_cast<Real>(scale) * static_cast<Real>(code(values, at));
                } else {
                    std::uint16_t half;
                    std::memcpy(&half, values + 2 * at, sizeof half);
                    out[k + c] = static_cast<Real>(
                        params.scale == ScaleType::kBF16 ? bf16_to_f32(half) : f16_to_f32(half));
                }
            }
            n += __builtin_popcountll(mask);
        }
    }

  private:
    static void put(std::byte* values, std::int64_t n, const PackedRow& row, std::int64_t from) {
        if constexpr (!kCodes) {
            std::memcpy(values + 2 * n,
                        static_cast<const std::byte*>(row.planes[L::kValues]) + 2 * from, 2);
        } else {
            const auto code = static_cast<unsigned>(L::code_at(row, from) + kOffset);
            if constexpr (bits == 8)
                values[n] = static_cast<std::byte>(code);
            else
                values[n / 2] |= static_cast<std::byte>(code << (4 * (n % 2)));
        }
    }
    static int code(const std::byte* values, std::int64_t n) {
        if constexpr (bits == 8) return static_cast<int>(values[n]) - kOffset;
        return (static_cast<int>(values[n / 2]) >> (4 * (n % 2)) & 15) - kOffset;
    }
};
template <>
struct Interleaved<LayoutId::k_sparse_x16> : WovenSparse<16, std::uint32_t> {};
template <>
struct Interleaved<LayoutId::k_sparse8_x16> : WovenSparse<8, std::uint64_t> {};
template <>
struct Interleaved<LayoutId::k_sparse4_x16> : WovenSparse<4, std::uint64_t> {};

}  // namespace thimble
