// SPDX-License-Identifier: Apache-2.0
// Resident twins of the stored layouts. Sixteen rows are woven together, so that one 64-byte vector
// holds one column (floats) or four columns (codes) of all sixteen, and an output row is a lane.
// The values are those of the stored block, bit for bit; only rows that pad the last group are new
// (zero).
//
//   codes of 32 columns x 16 rows: column k, row r stands at byte j = 4 r + k % 4 of vector g = k /
//   4
//     8 bits   codes[g][j]
//     4 bits   low[g % 4][j], low nibble if g < 4, else high nibble
//     5 bits   low, and bit 4 in bit j of the 64-bit word high[g]
//     6 bits   low, and bits 4-5 in bits 2 (g % 4), 2 (g % 4) + 1 of high[g / 4][j]
#pragma once

#include "kernels/layout/all.h"

namespace thimble {

inline constexpr int kGroupRows = 16;

template <int bits>
struct CodePlane;

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
struct CodePlane<5> {
    CodePlane<4> low;
    std::uint8_t high[8][8];
    void set(int row, int column, int code) {
        low.set(row, column, code);
        const int j = 4 * row + column % 4;
        std::uint8_t& at = high[column / 4][j / 8];
        at = static_cast<std::uint8_t>((at & ~(1 << j % 8)) | (code >> 4 & 1) << j % 8);
    }
    [[nodiscard]] int get(int row, int column) const {
        const int j = 4 * row + column % 4;
        return low.get(row, column) | (high[column / 4][j / 8] >> j % 8 & 1) << 4;
    }
};

template <>
struct CodePlane<6> {
    CodePlane<4> low;
    std::uint8_t high[2][64];
    void set(int row, int column, int code) {
        low.set(row, column, code);
        const int g = column / 4, shift = 2 * (g % 4);
        std::uint8_t& at = high[g / 4][4 * row + column % 4];
        at = static_cast<std::uint8_t>((at & ~(3 << shift)) | (code >> 4 & 3) << shift);
    }
    [[nodiscard]] int get(int row, int column) const {
        const int g = column / 4;
        return low.get(row, column) | (high[g / 4][4 * row + column % 4] >> 2 * (g % 4) & 3) << 4;
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

// Specialised for every layout of interleaved.def with
//   struct Block;                    16 rows x kElements columns
//   static constexpr int kElements;
//   static void pack(const Stored&, int row, Block&);   stored block into lane `row`
//   static void unpack(const Block&, int row, Real* out /* [kElements] */);
// and, where weights are codes, w = scale * (code - 2^kOffsetBits) + minimum (2^0 stands for no
// offset) with kScales scales per 32 columns.
template <LayoutId>
struct Interleaved;

template <LayoutId id>
struct InterleavedFloat {
    using Stored = typename Layout<id>::Block;
    struct Block {
        Stored rows[kGroupRows];
    };
    static constexpr int kElements = 1;
    static constexpr bool kCodes = false;
    static void pack(const Stored& stored, int row, Block& block) { block.rows[row] = stored; }
    template <class Real>
    static void unpack(const Block& block, int row, Real* out) {
        Layout<id>::unpack(block.rows[row], out);
    }
};
template <>
struct Interleaved<LayoutId::k_f32> : InterleavedFloat<LayoutId::k_f32> {};
template <>
struct Interleaved<LayoutId::k_f16> : InterleavedFloat<LayoutId::k_f16> {};
template <>
struct Interleaved<LayoutId::k_bf16> : InterleavedFloat<LayoutId::k_bf16> {};

inline constexpr std::uint16_t kHalfOne = 0x3c00;

// Codes of a stored block are read by unpacking a copy whose scales are one and minima zero: the
// stored layout's own definition stays the only one.
template <LayoutId id, int bits, int offset_bits>
struct InterleavedScaled {
    using Stored = typename Layout<id>::Block;
    struct Block {
        std::uint16_t d[kGroupRows];
        CodePlane<bits> codes;
    };
    static constexpr int kElements = 32, kBits = bits, kOffsetBits = offset_bits, kScales = 1;
    static constexpr bool kCodes = true, kMinimum = false;
    static void pack(const Stored& stored, int row, Block& block) {
        float values[32];
        Stored unit = stored;
        unit.d = kHalfOne;
        Layout<id>::unpack(unit, values);
        block.d[row] = stored.d;
        for (int k = 0; k < 32; ++k)
            block.codes.set(row, k, static_cast<int>(values[k]) + (1 << offset_bits));
    }
    template <class Real>
    static void unpack(const Block& block, int row, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d[row]));
        for (int k = 0; k < 32; ++k)
            out[k] = d * static_cast<Real>(block.codes.get(row, k) - (1 << offset_bits));
    }
};
template <>
struct Interleaved<LayoutId::k_q4_0> : InterleavedScaled<LayoutId::k_q4_0, 4, 3> {};
template <>
struct Interleaved<LayoutId::k_q5_0> : InterleavedScaled<LayoutId::k_q5_0, 5, 4> {};
template <>
struct Interleaved<LayoutId::k_q8_0> : InterleavedScaled<LayoutId::k_q8_0, 8, 7> {};

template <LayoutId id, int bits>
struct InterleavedAffine {
    using Stored = typename Layout<id>::Block;
    struct Block {
        std::uint16_t d[kGroupRows], m[kGroupRows];
        CodePlane<bits> codes;
    };
    static constexpr int kElements = 32, kBits = bits, kOffsetBits = 0, kScales = 1;
    static constexpr bool kCodes = true, kMinimum = true;
    static void pack(const Stored& stored, int row, Block& block) {
        float values[32];
        Stored unit = stored;
        unit.d = kHalfOne, unit.m = 0;
        Layout<id>::unpack(unit, values);
        block.d[row] = stored.d, block.m[row] = stored.m;
        for (int k = 0; k < 32; ++k) block.codes.set(row, k, static_cast<int>(values[k]));
    }
    template <class Real>
    static void unpack(const Block& block, int row, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d[row]));
        const Real m = static_cast<Real>(f16_to_f32(block.m[row]));
        for (int k = 0; k < 32; ++k) out[k] = d * static_cast<Real>(block.codes.get(row, k)) + m;
    }
};
template <>
struct Interleaved<LayoutId::k_q4_1> : InterleavedAffine<LayoutId::k_q4_1, 4> {};
template <>
struct Interleaved<LayoutId::k_q5_1> : InterleavedAffine<LayoutId::k_q5_1, 5> {};

// The 6-bit scales and minima become bytes: 1/8 bit per weight more than on disk, and no unpacking.
template <LayoutId id, int bits>
struct InterleavedKAffine {
    using Stored = typename Layout<id>::Block;
    struct Block {
        std::uint16_t d[kGroupRows], dmin[kGroupRows];
        struct Sub {
            std::uint8_t scale[kGroupRows], minimum[kGroupRows];
            CodePlane<bits> codes;
        } sub[8];
    };
    static constexpr int kElements = 256, kBits = bits, kOffsetBits = 0, kScales = 1;
    static constexpr bool kCodes = true, kMinimum = true;
    static void pack(const Stored& stored, int row, Block& block) {
        float values[256];
        Stored unit = stored;
        unit.d = kHalfOne, unit.dmin = 0;
        KScales ones;
        for (int s = 0; s < 8; ++s) ones.scale[s] = 1, ones.minimum[s] = 0;
        ones.pack(unit.scales);
        Layout<id>::unpack(unit, values);
        const KScales scales = KScales::unpack(stored.scales);
        block.d[row] = stored.d, block.dmin[row] = stored.dmin;
        for (int s = 0; s < 8; ++s) {
            block.sub[s].scale[row] = scales.scale[s];
            block.sub[s].minimum[row] = scales.minimum[s];
            for (int k = 0; k < 32; ++k)
                block.sub[s].codes.set(row, k, static_cast<int>(values[32 * s + k]));
        }
    }
    template <class Real>
    static void unpack(const Block& block, int row, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d[row]));
        const Real dmin = static_cast<Real>(f16_to_f32(block.dmin[row]));
        for (int k = 0; k < 256; ++k) {
            const auto& sub = block.sub[k / 32];
            out[k] = d * static_cast<Real>(sub.scale[row]) *
                         static_cast<Real>(sub.codes.get(row, k % 32)) -
                     dmin * static_cast<Real>(sub.minimum[row]);
        }
    }
};
template <>
struct Interleaved<LayoutId::k_q4_k> : InterleavedKAffine<LayoutId::k_q4_k, 4> {};
template <>
struct Interleaved<LayoutId::k_q5_k> : InterleavedKAffine<LayoutId::k_q5_k, 5> {};

template <>
struct Interleaved<LayoutId::k_q6_k> {
    using Stored = Layout<LayoutId::k_q6_k>::Block;
    struct Block {
        std::uint16_t d[kGroupRows];
        struct Sub {
            std::int8_t scale[2][kGroupRows];
            CodePlane<6> codes;
        } sub[8];
    };
    static constexpr int kElements = 256, kBits = 6, kOffsetBits = 5, kScales = 2;
    static constexpr bool kCodes = true, kMinimum = false;
    static void pack(const Stored& stored, int row, Block& block) {
        float values[256];
        Stored unit = stored;
        unit.d = kHalfOne;
        for (std::int8_t& scale : unit.scales) scale = 1;
        Layout<LayoutId::k_q6_k>::unpack(unit, values);
        block.d[row] = stored.d;
        for (int s = 0; s < 8; ++s) {
            for (int h = 0; h < 2; ++h) block.sub[s].scale[h][row] = stored.scales[2 * s + h];
            for (int k = 0; k < 32; ++k)
                block.sub[s].codes.set(row, k, static_cast<int>(values[32 * s + k]) + 32);
        }
    }
    template <class Real>
    static void unpack(const Block& block, int row, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d[row]));
        for (int k = 0; k < 256; ++k) {
            const auto& sub = block.sub[k / 32];
            const int half = k % 32 / 16;
            out[k] = d * static_cast<Real>(sub.scale[half][row]) *
                     static_cast<Real>(sub.codes.get(row, k % 32) - 32);
        }
    }
};

// Calls fn(id) with the stored layout's identity as a compile-time constant (id.value) for the
// interleaved layout `layout`.
template <LayoutId id>
struct StoredId {
    static constexpr LayoutId value = id;
};
template <class Fn>
auto with_interleaved(LayoutId layout, Fn&& fn) {
    switch (layout) {
#define THIMBLE_INTERLEAVED(id)  \
    case LayoutId::k_##id##_x16: \
        return fn(StoredId<LayoutId::k_##id>{});
#include "kernels/layout/interleaved.def"
#undef THIMBLE_INTERLEAVED
        default:
            break;
    }
    return fn(StoredId<LayoutId::k_f32>{});  // not reached: callers ask is_interleaved first
}

}  // namespace thimble
