// SPDX-License-Identifier: Apache-2.0
// Resident twins of layouts of blocks.
#pragma once

#include "kernels/layout/twin.h"

namespace thimble {

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

// The codes of 32 columns from their values.
template <class Plane>
void set_row(Plane& plane, int row, const float* values, int offset) {
    std::uint8_t codes[32];
    for (int k = 0; k < 32; ++k)
        codes[k] = static_cast<std::uint8_t>(static_cast<int>(values[k]) + offset);
    plane.set_row(row, codes);
}

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
        set_row(block.codes, row, values, offset);
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
        set_row(block.codes, row, values, 0);
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
            set_row(block.sub[s].codes, row, values + 32 * s, 0);
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
            set_row(block.sub[s].codes, row, values + 32 * s, offset);
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
            set_row(block.sub[s].codes, row, values + 32 * s, 0);
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
        for (int s = 0; s < 8; ++s) set_row(block.sub[s].codes, row, values + 32 * s, 1);
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

}  // namespace thimble
