// SPDX-License-Identifier: Apache-2.0
// Resident twins of the stored layouts. Sixteen rows are woven together, so that one 64-byte vector
// holds one column (floats) or four columns (codes) of all sixteen, and an output row is a lane.
// The values are those of the stored block, bit for bit; only rows that pad the last group are new
// (zero).
#pragma once

#include "kernels/layout/all.h"
#include "kernels/layout/code_planes.h"

namespace thimble {

inline constexpr int kGroupRows = 16;

// Specialised for every layout of interleaved.def with
//   struct Block;                    16 rows x kElements columns
//   static constexpr int kElements;
//   static void pack(const Stored&, int row, Block&);   stored block into lane `row`
//   static void unpack(const Block&, int row, Real* out /* [kElements] */);
// and, where weights are codes, w = scale * (code - kOffset) + minimum, codes of at most kBits
// bits, with kScales scales per 32 columns. Where kFloatValues, w = scale * values[code] instead.
// Stored layouts of several planes have, with params as the matrix has them,
//   static bool fits(const LayoutParams&);              whether there is a twin
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
    Layout<id>::kPlanes;
};

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
struct Interleaved<LayoutId::k_q4_0> : InterleavedScaled<LayoutId::k_q4_0, 4, 8> {};
template <>
struct Interleaved<LayoutId::k_q5_0> : InterleavedScaled<LayoutId::k_q5_0, 5, 16> {};
template <>
struct Interleaved<LayoutId::k_q8_0> : InterleavedScaled<LayoutId::k_q8_0, 8, 128> {};
template <>
struct Interleaved<LayoutId::k_iq4_nl> : InterleavedTable<LayoutId::k_iq4_nl, Iq4> {};
template <>
struct Interleaved<LayoutId::k_mxfp4> : InterleavedTable<LayoutId::k_mxfp4, E2m1> {};

template <LayoutId id, int bits>
struct InterleavedAffine {
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
struct Interleaved<LayoutId::k_q4_k> : InterleavedKAffine<LayoutId::k_q4_k, 4> {};
template <>
struct Interleaved<LayoutId::k_q5_k> : InterleavedKAffine<LayoutId::k_q5_k, 5> {};

// Signed scales of bytes, `scales` of them per 32 columns.
template <LayoutId id, int bits, int offset, int scales, class Plane = CodePlane<bits>>
struct InterleavedKScaled {
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
struct Interleaved<LayoutId::k_q3_k> : InterleavedKScaled<LayoutId::k_q3_k, 3, 4, 2> {};
template <>
struct Interleaved<LayoutId::k_q6_k> : InterleavedKScaled<LayoutId::k_q6_k, 6, 32, 2> {};
template <>
struct Interleaved<LayoutId::k_iq4_xs>
    : InterleavedKScaled<LayoutId::k_iq4_xs, Iq4::kBits, Iq4::kOffset, 1, TablePlane<Iq4>> {};

// A scale and a minimum share a byte, as they do on disk.
template <>
struct Interleaved<LayoutId::k_q2_k> {
    using Stored = Layout<LayoutId::k_q2_k>::Block;
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
struct Interleaved<LayoutId::k_tq1_0> : InterleavedTernary<LayoutId::k_tq1_0> {};
template <>
struct Interleaved<LayoutId::k_tq2_0> : InterleavedTernary<LayoutId::k_tq2_0> {};

// Codes of 4 bits, each group's scale and zero point repeated for every 32 columns: half a bit per
// weight more than groups of 128 take on disk, for blocks of one size.
template <>
struct Interleaved<LayoutId::k_affine> {
    using L = Layout<LayoutId::k_affine>;
    struct Block {
        std::uint16_t d[kGroupRows];  // f16 or bf16, as params.scale says
        std::uint8_t zero[kGroupRows];
        CodePlane<4> codes;
    };
    static constexpr int kElements = 32, kBits = 4, kOffset = 0, kScales = 1;
    static constexpr bool kCodes = true, kMinimum = true;
    static bool fits(const LayoutParams& params) {
        const bool half = params.scale == ScaleType::kF16 || params.scale == ScaleType::kBF16;
        return params.bits == kBits && params.group > 0 && half;
    }
    static void pack(const PackedRow& stored, std::int64_t first, int row, Block& block) {
        const std::int64_t g = first / stored.params.group;
        std::uint8_t codes[kElements];
        L::unpack_codes<kBits>(
            static_cast<const std::uint8_t*>(stored.planes[L::kCodes]) + first / 2, codes);
        block.d[row] = static_cast<const std::uint16_t*>(stored.planes[L::kScales])[g];
        block.zero[row] = static_cast<std::uint8_t>(L::zero_at(stored, g));
        for (int k = 0; k < kElements; ++k) block.codes.set(row, k, codes[k]);
    }
    template <class Real>
    static void unpack(const Block& block, int row, const LayoutParams& params, Real* out) {
        const bool bf16 = params.scale == ScaleType::kBF16;
        const Real d =
            static_cast<Real>(bf16 ? bf16_to_f32(block.d[row]) : f16_to_f32(block.d[row]));
        for (int k = 0; k < kElements; ++k)
            out[k] = d * static_cast<Real>(block.codes.get(row, k) - block.zero[row]);
    }
};

// Peaks are no longer nested; they too are repeated for every 32 columns.
template <>
struct Interleaved<LayoutId::k_nf4> {
    using L = Layout<LayoutId::k_nf4>;
    struct Block {
        float d[kGroupRows];
        CodePlane<4> codes;
    };
    static constexpr int kElements = 32, kBits = 4, kOffset = 0, kScales = 1;
    static constexpr bool kCodes = true, kMinimum = false, kFloatValues = true;
    static bool fits(const LayoutParams& params) { return params.bits == kBits; }
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
