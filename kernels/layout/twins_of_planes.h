// SPDX-License-Identifier: Apache-2.0
// Resident twins of layouts of several planes.
#pragma once

#include "kernels/layout/twin.h"

namespace thimble {

// Some widths are those of a wider twin, whose codes these are as well: each twin is code to
// compile.
constexpr int resident_bits(int bits) { return bits == 5 || bits == 7 ? bits + 1 : bits; }

// Each group's scale and zero point repeated for every `columns` columns, at most a bit per weight
// more than wider groups take on disk, for blocks of one size.
template <int bits, int columns>
struct InterleavedGroups {
    static constexpr LayoutId kStored = LayoutId::k_affine;
    using L = Layout<kStored>;
    struct Block {
        std::uint16_t d[kGroupRows];  // f16 or bf16, as params.scale says
        std::uint8_t zero[kGroupRows];
        CodePlane<bits> codes[columns / 32];
    };
    static constexpr int kElements = columns, kBits = bits, kScales = 1;
    static constexpr int kOffset = bits == 8 ? 128 : 0;
    static constexpr bool kCodes = true, kMinimum = true;
    static bool fits(const LayoutParams& params) {
        const bool half = params.scale == ScaleType::kF16 || params.scale == ScaleType::kBF16;
        return resident_bits(params.bits) == bits && params.group > 0 &&
               params.group % columns == 0 && half;
    }
    static float zero_unit(const LayoutParams& params) { return L::zero_unit(params.zero_bits); }
    static void pack(const PackedRow& stored, std::int64_t first, int row, Block& block) {
        const std::int64_t g = first / stored.params.group;
        const int stored_bits = stored.params.bits;
        const auto* from =
            static_cast<const std::uint8_t*>(stored.planes[L::kCodes]) + first / 8 * stored_bits;
        block.d[row] = static_cast<const std::uint16_t*>(stored.planes[L::kScales])[g];
        block.zero[row] =
            static_cast<std::uint8_t>(L::zero_at(stored, g) / zero_unit(stored.params));
        for (int s = 0; s < columns / 32; ++s) {
            std::uint8_t codes[32];
            unpack_codes(stored_bits, from + 4 * stored_bits * s, codes);
            block.codes[s].set_row(row, codes);
        }
    }
    template <class Real>
    static void unpack(const Block& block, int row, const LayoutParams& params, Real* out) {
        const bool bf16 = params.scale == ScaleType::kBF16;
        const Real d =
            static_cast<Real>(bf16 ? bf16_to_f32(block.d[row]) : f16_to_f32(block.d[row]));
        const Real zero = static_cast<Real>(block.zero[row]) * static_cast<Real>(zero_unit(params));
        for (int k = 0; k < kElements; ++k)
            out[k] = d * (static_cast<Real>(block.codes[k / 32].get(row, k % 32)) - zero);
    }
};
template <>
struct Interleaved<LayoutId::k_affine2_64_x16> : InterleavedGroups<2, 64> {};
template <>
struct Interleaved<LayoutId::k_affine3_64_x16> : InterleavedGroups<3, 64> {};
template <>
struct Interleaved<LayoutId::k_affine4_64_x16> : InterleavedGroups<4, 64> {};
template <>
struct Interleaved<LayoutId::k_affine6_64_x16> : InterleavedGroups<6, 64> {};
template <>
struct Interleaved<LayoutId::k_affine8_64_x16> : InterleavedGroups<8, 64> {};
template <>
struct Interleaved<LayoutId::k_affine2_32_x16> : InterleavedGroups<2, 32> {};
template <>
struct Interleaved<LayoutId::k_affine3_32_x16> : InterleavedGroups<3, 32> {};
template <>
struct Interleaved<LayoutId::k_affine4_32_x16> : InterleavedGroups<4, 32> {};
template <>
struct Interleaved<LayoutId::k_affine6_32_x16> : InterleavedGroups<6, 32> {};
template <>
struct Interleaved<LayoutId::k_affine8_32_x16> : InterleavedGroups<8, 32> {};

// Peaks are no longer nested; they too are repeated.
template <int columns>
struct InterleavedNf4 {
    static constexpr LayoutId kStored = LayoutId::k_nf4;
    using L = Layout<kStored>;
    struct Block {
        float d[kGroupRows];
        CodePlane<4> table_codes[columns / 32];
    };
    static constexpr int kElements = columns, kBits = 8, kOffset = 0, kScales = 1;
    static constexpr bool kCodes = true, kMinimum = false, kTableValues = true;
    static bool fits(const LayoutParams& params) {
        return params.bits == 4 && params.group % columns == 0;
    }
    static void set_values(const PackedRow& stored, LayoutParams& params) {
        std::memcpy(params.values, stored.planes[L::kValues], sizeof(params.values));
    }
    static void pack(const PackedRow& stored, std::int64_t first, int row, Block& block) {
        const auto* codes = static_cast<const std::uint8_t*>(stored.planes[L::kCodes]) + first / 2;
        block.d[row] = L::peak_at(stored, first / stored.params.group);
        for (int k = 0; k < kElements; ++k)
            block.table_codes[k / 32].set(row, k % 32,
                                          k % 2 == 0 ? codes[k / 2] >> 4 : codes[k / 2] & 15);
    }
    template <class Real>
    static void unpack(const Block& block, int row, const LayoutParams& params, Real* out) {
        const Real d = static_cast<Real>(block.d[row]);
        for (int k = 0; k < kElements; ++k)
            out[k] =
                static_cast<Real>(params.values[block.table_codes[k / 32].get(row, k % 32)]) * d;
    }
};
template <>
struct Interleaved<LayoutId::k_nf4_64_x16> : InterleavedNf4<64> {};
template <>
struct Interleaved<LayoutId::k_nf4_32_x16> : InterleavedNf4<32> {};

// The special value of each row's group, repeated with its scale for every 32 columns.
template <int bits>
struct InterleavedBitmod {
    static constexpr LayoutId kStored = LayoutId::k_bitmod;
    using L = Layout<kStored>;
    using Values = Bitmod<bits>;
    struct Block {
        std::uint16_t d[kGroupRows];
        std::int8_t special[kGroupRows];
        CodePlane<bits> codes;
    };
    static constexpr int kElements = 32, kBits = Values::kBits, kOffset = Values::kOffset;
    static constexpr int kScales = 1;
    static constexpr bool kCodes = true, kMinimum = false;
    static bool fits(const LayoutParams& params) { return params.bits == bits; }
    static void pack(const PackedRow& stored, std::int64_t first, int row, Block& block) {
        const std::int64_t g = first / stored.params.group;
        std::uint8_t codes[32];
        unpack_codes<bits>(
            static_cast<const std::uint8_t*>(stored.planes[L::kCodes]) + first / 8 * bits, codes);
        block.d[row] = static_cast<const std::uint16_t*>(stored.planes[L::kScales])[g];
        block.special[row] = static_cast<std::int8_t>(Values::special(L::id_at(stored, g)));
        for (int k = 0; k < 32; ++k) block.codes.set(row, k, codes[k]);
    }
    template <class Real>
    static void unpack(const Block& block, int row, const LayoutParams&, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d[row]));
        for (int k = 0; k < kElements; ++k) {
            const int code = block.codes.get(row, k);
            const int value =
                code == Values::kSpecial ? int{block.special[row]} : Values::value(code);
            out[k] = d * static_cast<Real>(value);
        }
    }
};
template <>
struct Interleaved<LayoutId::k_bitmod3_x16> : InterleavedBitmod<3> {};
template <>
struct Interleaved<LayoutId::k_bitmod4_x16> : InterleavedBitmod<4> {};

// Codes of 2 to 4, of 5 and 6, and of 7 and 8 bits share a twin.
template <int bits>
struct InterleavedBfp {
    static constexpr LayoutId kStored = LayoutId::k_bfp;
    using L = Layout<kStored>;
    struct Block {
        std::uint8_t d[kGroupRows];
        CodePlane<bits> codes;
    };
    static constexpr int kElements = 32, kBits = bits, kOffset = 1 << (bits - 1), kScales = 1;
    static constexpr bool kCodes = true, kMinimum = false;
    static bool fits(const LayoutParams& params) {
        const int wide = params.bits < 4 ? 4 : params.bits + params.bits % 2;
        return wide == bits && params.group % kElements == 0;
    }
    static void pack(const PackedRow& stored, std::int64_t first, int row, Block& block) {
        const int stored_bits = stored.params.bits;
        std::uint8_t codes[32];
        unpack_codes(
            stored_bits,
            static_cast<const std::uint8_t*>(stored.planes[L::kCodes]) + first / 8 * stored_bits,
            codes);
        block.d[row] = static_cast<const std::uint8_t*>(
            stored.planes[L::kExponents])[first / stored.params.group];
        const int moved = kOffset - (1 << (stored_bits - 1));
        for (int k = 0; k < 32; ++k) block.codes.set(row, k, codes[k] + moved);
    }
    template <class Real>
    static void unpack(const Block& block, int row, const LayoutParams&, Real* out) {
        const Real d = static_cast<Real>(e8m0_half_to_f32(block.d[row]));
        for (int k = 0; k < kElements; ++k)
            out[k] = d * static_cast<Real>(block.codes.get(row, k) - kOffset);
    }
};
template <>
struct Interleaved<LayoutId::k_bfp4_x16> : InterleavedBfp<4> {};
template <>
struct Interleaved<LayoutId::k_bfp6_x16> : InterleavedBfp<6> {};
template <>
struct Interleaved<LayoutId::k_bfp8_x16> : InterleavedBfp<8> {};

// Codes as numbers, for products of bytes: w = d (2 (u - kOffset) + bias).
template <int bits>
struct InterleavedBipolar {
    static constexpr LayoutId kStored = LayoutId::k_bipolar;
    using L = Layout<kStored>;
    struct Block {
        std::uint16_t d[kGroupRows];
        CodePlane<bits> codes[2];
    };
    static constexpr int kElements = 64, kBits = bits, kScales = 1;
    static constexpr int kOffset = bits == 8 ? 128 : 0;
    static constexpr bool kCodes = true, kMinimum = true;
    static bool fits(const LayoutParams& params) {
        return resident_bits(params.bits) == bits && params.group % kElements == 0;
    }
    static int bias(const LayoutParams& params) { return 2 * kOffset - ((1 << params.bits) - 1); }
    static void pack(const PackedRow& stored, std::int64_t first, int row, Block& block) {
        block.d[row] = static_cast<const std::uint16_t*>(
            stored.planes[L::kScales])[first / stored.params.group];
        for (int k = 0; k < kElements; ++k) {
            const std::uint8_t* words = L::words_at(stored, first + k / 32 * 32);
            block.codes[k / 32].set(row, k % 32, L::code_at(words, stored.params.bits, k % 32));
        }
    }
    template <class Real>
    static void unpack(const Block& block, int row, const LayoutParams& params, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d[row]));
        for (int k = 0; k < kElements; ++k) {
            const int code = block.codes[k / 32].get(row, k % 32);
            out[k] = d * static_cast<Real>(2 * (code - kOffset) + bias(params));
        }
    }
};
template <>
struct Interleaved<LayoutId::k_bipolar1_x16> : InterleavedBipolar<1> {};
template <>
struct Interleaved<LayoutId::k_bipolar2_x16> : InterleavedBipolar<2> {};
template <>
struct Interleaved<LayoutId::k_bipolar3_x16> : InterleavedBipolar<3> {};
template <>
struct Interleaved<LayoutId::k_bipolar4_x16> : InterleavedBipolar<4> {};
template <>
struct Interleaved<LayoutId::k_bipolar6_x16> : InterleavedBipolar<6> {};
template <>
struct Interleaved<LayoutId::k_bipolar8_x16> : InterleavedBipolar<8> {};

// Values of a byte: no product of bytes has them, they are widened to floats.
template <class Scale, int columns>
struct InterleavedFp8 {
    static constexpr LayoutId kStored = LayoutId::k_fp8;
    using L = Layout<kStored>;
    struct Block {
        Scale d[kGroupRows];
        std::uint8_t columns_of_rows[columns][kGroupRows];
    };
    static constexpr int kElements = columns, kScales = 1;
    static constexpr bool kCodes = true, kMinimum = false, kFloatValues = true;
    static bool fits(const LayoutParams& params) {
        const auto scale = sizeof(Scale) == 1 ? ScaleType::kE8m0 : ScaleType::kF32;
        return params.scale == scale && params.group % columns == 0;
    }
    static void pack(const PackedRow& stored, std::int64_t first, int row, Block& block) {
        const auto* codes = static_cast<const std::uint8_t*>(stored.planes[L::kCodes]) + first;
        block.d[row] =
            static_cast<const Scale*>(stored.planes[L::kScales])[first / stored.params.group];
        for (int k = 0; k < columns; ++k) block.columns_of_rows[k][row] = codes[k];
    }
    static float scale_of(float d) { return d; }
    static float scale_of(std::uint8_t d) { return 2 * e8m0_half_to_f32(d); }
    template <class Real>
    static void unpack(const Block& block, int row, const LayoutParams&, Real* out) {
        const Real d = static_cast<Real>(scale_of(block.d[row]));
        for (int k = 0; k < columns; ++k)
            out[k] = d * static_cast<Real>(e4m3_to_f32(block.columns_of_rows[k][row]));
    }
};
template <>
struct Interleaved<LayoutId::k_fp8_x16> : InterleavedFp8<float, 64> {};
template <>
struct Interleaved<LayoutId::k_mxfp8_x16> : InterleavedFp8<std::uint8_t, 32> {};

template <>
struct Interleaved<LayoutId::k_nvfp4_x16> {
    static constexpr LayoutId kStored = LayoutId::k_nvfp4;
    using L = Layout<kStored>;
    struct Block {
        std::uint8_t e4m3[2][kGroupRows];
        TablePlane<E2m1> codes;
    };
    static constexpr int kElements = 32, kBits = E2m1::kBits, kOffset = E2m1::kOffset, kScales = 2;
    static constexpr bool kCodes = true, kMinimum = false;
    static bool fits(const LayoutParams&) { return true; }
    // params.values[0] is the unit.
    static void set_values(const PackedRow& stored, LayoutParams& params) {
        params.values[0] = L::unit(stored);
    }
    static void pack(const PackedRow& stored, std::int64_t first, int row, Block& block) {
        const auto* codes = static_cast<const std::uint8_t*>(stored.planes[L::kCodes]) + first / 2;
        const auto* scales = static_cast<const std::uint8_t*>(stored.planes[L::kScales]);
        for (int h = 0; h < 2; ++h) block.e4m3[h][row] = scales[first / L::kGroup + h];
        for (int k = 0; k < kElements; ++k)
            block.codes.codes.set(row, k, codes[k / 2] >> (k % 2 * 4) & 15);
    }
    template <class Real>
    static void unpack(const Block& block, int row, const LayoutParams& params, Real* out) {
        for (int k = 0; k < kElements; ++k) {
            const Real scale =
                static_cast<Real>(e4m3_to_f32(block.e4m3[k / 16][row]) * params.values[0]);
            out[k] = scale * static_cast<Real>(block.codes.get(row, k) - kOffset);
        }
    }
};

// The book of the sixteen rows repeated for every 64 columns, each value 128 higher.
template <int bits>
struct InterleavedJlcm {
    static constexpr LayoutId kStored = LayoutId::k_jlcm;
    using L = Layout<kStored>;
    struct Block {
        std::uint16_t d[kGroupRows];
        std::uint8_t book[16];
        CodePlane<bits> book_codes[2];
    };
    static constexpr int kElements = 64, kBits = 8, kOffset = 128, kScales = 1;
    static constexpr bool kCodes = true, kMinimum = false;
    static constexpr float kUnit = L::kUnit;
    static bool fits(const LayoutParams& params) {
        return params.bits == bits && params.rows % kGroupRows == 0 &&
               params.group % kElements == 0;
    }
    static void pack(const PackedRow& stored, std::int64_t first, int row, Block& block) {
        const auto* from =
            static_cast<const std::uint8_t*>(stored.planes[L::kCodes]) + first / 8 * bits;
        block.d[row] = static_cast<const std::uint16_t*>(
            stored.planes[L::kScales])[first / stored.params.group];
        const std::int8_t* values = L::values_at(stored);
        for (int i = 0; i < 1 << bits; ++i)
            block.book[i] = static_cast<std::uint8_t>(values[i] + kOffset);
        for (int s = 0; s < 2; ++s) {
            std::uint8_t codes[32];
            unpack_codes<bits>(from + 4 * bits * s, codes);
            block.book_codes[s].set_row(row, codes);
        }
    }
    template <class Real>
    static void unpack(const Block& block, int row, const LayoutParams&, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d[row]) * kUnit);
        for (int k = 0; k < kElements; ++k) {
            const int code = block.book_codes[k / 32].get(row, k % 32);
            out[k] = d * static_cast<Real>(block.book[code] - kOffset);
        }
    }
};
template <>
struct Interleaved<LayoutId::k_jlcm2_x16> : InterleavedJlcm<2> {};
template <>
struct Interleaved<LayoutId::k_jlcm3_x16> : InterleavedJlcm<3> {};
template <>
struct Interleaved<LayoutId::k_jlcm4_x16> : InterleavedJlcm<4> {};

}  // namespace thimble
