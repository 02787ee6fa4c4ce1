// SPDX-License-Identifier: Apache-2.0
// Resident twins of the stored layouts. Sixteen rows are woven together, so that one 64-byte vector
// holds one column (floats) or four columns (codes) of all sixteen, and an output row is a lane.
// The values are those of the stored block, bit for bit; only rows that pad the last group are new
// (bytes of zero: no weights to speak of).
#pragma once

#include "kernels/layout/all.h"
#include "kernels/layout/code_planes.h"

namespace thimble {

inline constexpr int kGroupRows = 16;

// Specialised for every layout of interleaved.def with
//   static constexpr LayoutId kStored;
//   struct Block;                    16 rows x kElements columns
//   static constexpr int kElements;
//   static void pack(const Stored&, int row, Block&);   stored block into lane `row`
//   static void unpack(const Block&, int row, Real* out /* [kElements] */);
// and, where weights are codes, w = scale * (code - kOffset) + minimum, codes of at most kBits
// bits, with kScales scales per 32 columns. Where kFloatValues, w = scale * values[code] instead.
// Stored layouts of several planes have, with params as the matrix has them,
//   static bool fits(const LayoutParams&);              whether there is a twin
//   static void set_values(const PackedRow&, LayoutParams&);   where it keeps some there
//   static void pack(const PackedRow&, std::int64_t first, int row, Block&);
//   static void unpack(const Block&, int row, const LayoutParams&, Real* out /* [kElements] */);
template <LayoutId>
struct Interleaved;
template <LayoutId id>
inline constexpr bool kFloatValues = requires {
    Interleaved<id>::kFloatValues;
};
template <LayoutId id>
inline constexpr bool kOfPlanes = requires {
    Layout<Interleaved<id>::kStored>::kPlanes;
};

template <LayoutId id>
struct InterleavedFloat {
    static constexpr LayoutId kStored = id;
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
struct Interleaved<LayoutId::k_f32_x16> : InterleavedFloat<LayoutId::k_f32> {};
template <>
struct Interleaved<LayoutId::k_f16_x16> : InterleavedFloat<LayoutId::k_f16> {};
template <>
struct Interleaved<LayoutId::k_bf16_x16> : InterleavedFloat<LayoutId::k_bf16> {};

// A block's scale field: a half, or the E8M0 power of two that scales doubled E2M1 values.
inline float scale_value(std::uint16_t half) { return f16_to_f32(half); }
inline float scale_value(std::uint8_t e8m0) { return e8m0_half_to_f32(e8m0); }
inline constexpr std::uint16_t kHalfOne = 0x3c00;
template <class Scale>
inline constexpr Scale kScaleOne = sizeof(Scale) == 1 ? kE8m0One + 1 : kHalfOne;

// Codes of a stored block are read by unpacking a copy whose scales are one and minima zero: the
// stored layout's own definition stays the only one.
template <LayoutId id, int bits, int offset, class Plane = CodePlane<bits>>
struct InterleavedScaled {
    static constexpr LayoutId kStored = id;
    using Stored = typename Layout<id>::Block;
    using Scale = decltype(Stored::d);
    struct Block {
        Scale d[kGroupRows];
        Plane codes;
    };
    static constexpr int kElements = 32, kBits = bits, kOffset = offset, kScales = 1;
    static constexpr bool kCodes = true, kMinimum = false;
    static void pack(const Stored& stored, int row, Block& block) {
        float values[32];
        Stored unit = stored;
        unit.d = kScaleOne<Scale>;
        Layout<id>::unpack(unit, values);
        block.d[row] = stored.d;
        for (int k = 0; k < 32; ++k) block.codes.set(row, k, static_cast<int>(values[k]) + offset);
    }
    template <class Real>
    static void unpack(const Block& block, int row, Real* out) {
        const Real d = static_cast<Real>(scale_value(block.d[row]));
        for (int k = 0; k < 32; ++k)
            out[k] = d * static_cast<Real>(block.codes.get(row, k) - offset);
    }
};
template <LayoutId id, class Values>
using InterleavedTable = InterleavedScaled<id, Values::kBits, Values::kOffset, TablePlane<Values>>;
template <>
struct Interleaved<LayoutId::k_q4_0_x16> : InterleavedScaled<LayoutId::k_q4_0, 4, 8> {};
template <>
struct Interleaved<LayoutId::k_q5_0_x16> : InterleavedScaled<LayoutId::k_q5_0, 5, 16> {};
template <>
struct Interleaved<LayoutId::k_q8_0_x16> : InterleavedScaled<LayoutId::k_q8_0, 8, 128> {};
template <>
struct Interleaved<LayoutId::k_iq4_nl_x16> : InterleavedTable<LayoutId::k_iq4_nl, Iq4> {};
template <>
struct Interleaved<LayoutId::k_mxfp4_x16> : InterleavedTable<LayoutId::k_mxfp4, E2m1> {};

template <LayoutId id, int bits>
struct InterleavedAffine {
    static constexpr LayoutId kStored = id;
    using Stored = typename Layout<id>::Block;
    struct Block {
        std::uint16_t d[kGroupRows], m[kGroupRows];
        CodePlane<bits> codes;
    };
    static constexpr int kElements = 32, kBits = bits, kOffset = 0, kScales = 1;
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
struct Interleaved<LayoutId::k_q4_1_x16> : InterleavedAffine<LayoutId::k_q4_1, 4> {};
template <>
struct Interleaved<LayoutId::k_q5_1_x16> : InterleavedAffine<LayoutId::k_q5_1, 5> {};

// The 6-bit scales and minima become bytes: 1/8 bit per weight more than on disk, and no unpacking.
template <LayoutId id, int bits>
struct InterleavedKAffine {
    static constexpr LayoutId kStored = id;
    using Stored = typename Layout<id>::Block;
    struct Block {
        std::uint16_t d[kGroupRows], dmin[kGroupRows];
        struct Sub {
            std::uint8_t scale[kGroupRows], minimum[kGroupRows];
            CodePlane<bits> codes;
        } sub[8];
    };
    static constexpr int kElements = 256, kBits = bits, kOffset = 0, kScales = 1;
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
struct Interleaved<LayoutId::k_q4_k_x16> : InterleavedKAffine<LayoutId::k_q4_k, 4> {};
template <>
struct Interleaved<LayoutId::k_q5_k_x16> : InterleavedKAffine<LayoutId::k_q5_k, 5> {};

// Signed scales of bytes, `scales` of them per 32 columns.
template <LayoutId id, int bits, int offset, int scales, class Plane = CodePlane<bits>>
struct InterleavedKScaled {
    static constexpr LayoutId kStored = id;
    using Stored = typename Layout<id>::Block;
    struct Block {
        std::uint16_t d[kGroupRows];
        struct Sub {
            std::int8_t scale[scales][kGroupRows];
            Plane codes;
        } sub[8];
    };
    static constexpr int kElements = 256, kBits = bits, kOffset = offset, kScales = scales;
    static constexpr bool kCodes = true, kMinimum = false, kSubScales = true;
    static void pack(const Stored& stored, int row, Block& block) {
        float values[256];
        Stored unit = stored;
        unit.d = kHalfOne;
        for (int g = 0; g < 8 * scales; ++g) Layout<id>::set_scale(unit, g, 1);
        Layout<id>::unpack(unit, values);
        block.d[row] = stored.d;
        for (int s = 0; s < 8; ++s) {
            for (int h = 0; h < scales; ++h)
                block.sub[s].scale[h][row] =
                    static_cast<std::int8_t>(Layout<id>::scale(stored, scales * s + h));
            for (int k = 0; k < 32; ++k)
                block.sub[s].codes.set(row, k, static_cast<int>(values[32 * s + k]) + offset);
        }
    }
    template <class Real>
    static void unpack(const Block& block, int row, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d[row]));
        for (int k = 0; k < 256; ++k) {
            const auto& sub = block.sub[k / 32];
            const int part = k % 32 * scales / 32;
            out[k] = d * static_cast<Real>(sub.scale[part][row]) *
                     static_cast<Real>(sub.codes.get(row, k % 32) - offset);
        }
    }
};
template <>
struct Interleaved<LayoutId::k_q3_k_x16> : InterleavedKScaled<LayoutId::k_q3_k, 3, 4, 2> {};
template <>
struct Interleaved<LayoutId::k_q6_k_x16> : InterleavedKScaled<LayoutId::k_q6_k, 6, 32, 2> {};
template <>
struct Interleaved<LayoutId::k_iq4_xs_x16>
    : InterleavedKScaled<LayoutId::k_iq4_xs, Iq4::kBits, Iq4::kOffset, 1, TablePlane<Iq4>> {};

// A scale and a minimum share a byte, as they do on disk.
template <>
struct Interleaved<LayoutId::k_q2_k_x16> {
    static constexpr LayoutId kStored = LayoutId::k_q2_k;
    using Stored = Layout<kStored>::Block;
    struct Block {
        std::uint16_t d[kGroupRows], dmin[kGroupRows];
        struct Sub {
            std::uint8_t scale_minimum[2][kGroupRows];  // low and high nibble
            CodePlane<2> codes;
        } sub[8];
    };
    static constexpr int kElements = 256, kBits = 2, kOffset = 0, kScales = 2;
    static constexpr bool kCodes = true, kMinimum = true;
    static void pack(const Stored& stored, int row, Block& block) {
        float values[256];
        Stored unit = stored;
        unit.d = kHalfOne, unit.dmin = 0;
        for (std::uint8_t& scale : unit.scales) scale = 1;
        Layout<LayoutId::k_q2_k>::unpack(unit, values);
        block.d[row] = stored.d, block.dmin[row] = stored.dmin;
        for (int s = 0; s < 8; ++s) {
            for (int h = 0; h < 2; ++h)
                block.sub[s].scale_minimum[h][row] = stored.scales[2 * s + h];
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
            const int both = sub.scale_minimum[k % 32 / 16][row];
            out[k] =
                d * static_cast<Real>(both & 15) * static_cast<Real>(sub.codes.get(row, k % 32)) -
                dmin * static_cast<Real>(both >> 4);
        }
    }
};

// Two bits per weight for both: base-3 digits of tq1_0 would cost more to take apart than the bytes
// that they save cost to read.
template <LayoutId id>
struct InterleavedTernary {
    static constexpr LayoutId kStored = id;
    using Stored = typename Layout<id>::Block;
    struct Block {
        std::uint16_t d[kGroupRows];
        struct Sub {
            CodePlane<2> codes;
        } sub[8];
    };
    static constexpr int kElements = 256, kBits = 2, kOffset = 1, kScales = 1;
    static constexpr bool kCodes = true, kMinimum = false, kSubScales = false;
    static void pack(const Stored& stored, int row, Block& block) {
        float values[256];
        Stored unit = stored;
        unit.d = kHalfOne;
        Layout<id>::unpack(unit, values);
        block.d[row] = stored.d;
        for (int k = 0; k < 256; ++k)
            block.sub[k / 32].codes.set(row, k % 32, static_cast<int>(values[k]) + 1);
    }
    template <class Real>
    static void unpack(const Block& block, int row, Real* out) {
        const Real d = static_cast<Real>(f16_to_f32(block.d[row]));
        for (int k = 0; k < 256; ++k)
            out[k] = d * static_cast<Real>(block.sub[k / 32].codes.get(row, k % 32) - 1);
    }
};
template <>
struct Interleaved<LayoutId::k_tq1_0_x16> : InterleavedTernary<LayoutId::k_tq1_0> {};
template <>
struct Interleaved<LayoutId::k_tq2_0_x16> : InterleavedTernary<LayoutId::k_tq2_0> {};

// Some widths are those of a wider twin, whose codes these are as well: each twin is code to compile.
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
            for (int k = 0; k < 32; ++k) block.codes[s].set(row, k, codes[k]);
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

// Peaks are no longer nested; they too are repeated for every 32 columns.
template <>
struct Interleaved<LayoutId::k_nf4_x16> {
    static constexpr LayoutId kStored = LayoutId::k_nf4;
    using L = Layout<kStored>;
    struct Block {
        float d[kGroupRows];
        CodePlane<4> codes;
    };
    static constexpr int kElements = 32, kBits = 4, kOffset = 0, kScales = 1;
    static constexpr bool kCodes = true, kMinimum = false, kFloatValues = true;
    static bool fits(const LayoutParams& params) { return params.bits == kBits; }
    static void set_values(const PackedRow& stored, LayoutParams& params) {
        std::memcpy(params.values, stored.planes[L::kValues], sizeof(params.values));
    }
    static void pack(const PackedRow& stored, std::int64_t first, int row, Block& block) {
        const auto* codes = static_cast<const std::uint8_t*>(stored.planes[L::kCodes]) + first / 2;
        block.d[row] = L::peak_at(stored, first / stored.params.group);
        for (int k = 0; k < kElements; ++k)
            block.codes.set(row, k, k % 2 == 0 ? codes[k / 2] >> 4 : codes[k / 2] & 15);
    }
    template <class Real>
    static void unpack(const Block& block, int row, const LayoutParams& params, Real* out) {
        const Real d = static_cast<Real>(block.d[row]);
        for (int k = 0; k < kElements; ++k)
            out[k] = static_cast<Real>(params.values[block.codes.get(row, k)]) * d;
    }
};

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

// Calls fn(id) with the interleaved layout as a compile-time constant (id.value).
template <LayoutId id>
struct InterleavedId {
    static constexpr LayoutId value = id;
};
template <class Fn>
auto with_interleaved(LayoutId layout, Fn&& fn) {
    switch (layout) {
#define THIMBLE_INTERLEAVED(stored, twin) \
    case LayoutId::k_##twin##_x16:        \
        return fn(InterleavedId<LayoutId::k_##twin##_x16>{});
#include "kernels/layout/interleaved.def"
#undef THIMBLE_INTERLEAVED
        default:
            break;
    }
    // Not reached: callers ask is_interleaved first.
    return fn(InterleavedId<LayoutId::k_f32_x16>{});
}

}  // namespace thimble
