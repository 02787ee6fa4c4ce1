// SPDX-License-Identifier: Apache-2.0
// Sixteen float lanes for encoders, on whatever vectors the compiler may use. An operation means
// the same at every instruction-set level: no fused multiply-add, no approximate reciprocal, sums
// along one fixed tree. So an encoder is written once; compiled without a level (namespace
// thimble::encode::plain) it defines the format, and each level's copy gives the same bytes.
// Everything is static: an out-of-line copy must not be shared between levels.
#pragma once

#include <cstdint>
#include <utility>

#include "kernels/layout/half.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#ifdef THIMBLE_ISA
#define THIMBLE_ENCODE_LEVEL THIMBLE_ISA
#else
#define THIMBLE_ENCODE_LEVEL plain
#endif
#define THIMBLE_LANE static inline __attribute__((always_inline))
#define THIMBLE_LANE_MEMBER inline __attribute__((always_inline))

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

#if defined(__AVX512F__)
constexpr int kNative = 16;
#elif defined(__AVX__)
constexpr int kNative = 8;
#else
constexpr int kNative = 4;
#endif
constexpr int kLanes = 16, kParts = kLanes / kNative;

typedef float NativeFloat __attribute__((vector_size(4 * kNative)));
typedef std::int32_t NativeInt __attribute__((vector_size(4 * kNative)));
typedef float UnalignedFloat __attribute__((vector_size(4 * kNative), aligned(4), may_alias));
typedef std::int32_t UnalignedInt __attribute__((vector_size(4 * kNative), aligned(4), may_alias));

struct Lanes {
    NativeFloat part[kParts];
};
struct IntLanes {  // whole numbers, bit patterns, or masks: all ones or zero
    NativeInt part[kParts];
};

THIMBLE_LANE Lanes load(const float* p) {
    Lanes v;
    for (int i = 0; i < kParts; ++i)
        v.part[i] = *reinterpret_cast<const UnalignedFloat*>(p + i * kNative);
    return v;
}
THIMBLE_LANE void store(float* p, Lanes v) {
    for (int i = 0; i < kParts; ++i)
        *reinterpret_cast<UnalignedFloat*>(p + i * kNative) = v.part[i];
}
THIMBLE_LANE void store(std::int32_t* p, IntLanes v) {
    for (int i = 0; i < kParts; ++i) *reinterpret_cast<UnalignedInt*>(p + i * kNative) = v.part[i];
}
THIMBLE_LANE Lanes spread(float x) {
    Lanes v;
    for (int i = 0; i < kParts; ++i) v.part[i] = x - NativeFloat{};
    return v;
}
// 0, 1, ... 15.
THIMBLE_LANE Lanes counted() {
    Lanes v;
    for (int i = 0; i < kParts; ++i) {
        for (int k = 0; k < kNative; ++k) v.part[i][k] = static_cast<float>(i * kNative + k);
    }
    return v;
}

#define THIMBLE_LANE_OPERATOR(Type, op)                                      \
    THIMBLE_LANE Type operator op(Type a, Type b) {                          \
        for (int i = 0; i < kParts; ++i) a.part[i] = a.part[i] op b.part[i]; \
        return a;                                                            \
    }
THIMBLE_LANE_OPERATOR(Lanes, +)
THIMBLE_LANE_OPERATOR(Lanes, -)
THIMBLE_LANE_OPERATOR(Lanes, *)
THIMBLE_LANE_OPERATOR(Lanes, /)
THIMBLE_LANE_OPERATOR(IntLanes, &)
THIMBLE_LANE_OPERATOR(IntLanes, |)
#undef THIMBLE_LANE_OPERATOR

// The second operand where either is NaN. Named, because GCC turns some `a < b ? a : b` into two
// instructions.
THIMBLE_LANE NativeFloat native_min(NativeFloat a, NativeFloat b) {
#if defined(__AVX512F__)
    return _mm512_maskz_min_ps(0xffff, a, b);
#elif defined(__AVX__)
    return _mm256_min_ps(a, b);
#elif defined(__SSE2__)
    return _mm_min_ps(a, b);
#else
    return a < b ? a : b;
#endif
}
THIMBLE_LANE NativeFloat native_max(NativeFloat a, NativeFloat b) {
#if defined(__AVX512F__)
    return _mm512_maskz_max_ps(0xffff, a, b);
#elif defined(__AVX__)
    return _mm256_max_ps(a, b);
#elif defined(__SSE2__)
    return _mm_max_ps(a, b);
#else
    return a > b ? a : b;
#endif
}
THIMBLE_LANE Lanes min(Lanes a, Lanes b) {
    for (int i = 0; i < kParts; ++i) a.part[i] = native_min(a.part[i], b.part[i]);
    return a;
}
THIMBLE_LANE Lanes max(Lanes a, Lanes b) {
    for (int i = 0; i < kParts; ++i) a.part[i] = native_max(a.part[i], b.part[i]);
    return a;
}
THIMBLE_LANE IntLanes greater(Lanes a, Lanes b) {
    IntLanes mask;
    for (int i = 0; i < kParts; ++i) mask.part[i] = a.part[i] > b.part[i];
    return mask;
}
THIMBLE_LANE Lanes select(IntLanes mask, Lanes yes, Lanes no) {
    for (int i = 0; i < kParts; ++i) yes.part[i] = mask.part[i] ? yes.part[i] : no.part[i];
    return yes;
}
THIMBLE_LANE IntLanes bits(Lanes v) {
    IntLanes b;
    for (int i = 0; i < kParts; ++i) b.part[i] = reinterpret_cast<NativeInt>(v.part[i]);
    return b;
}
THIMBLE_LANE Lanes from_bits(IntLanes b) {
    Lanes v;
    for (int i = 0; i < kParts; ++i) v.part[i] = reinterpret_cast<NativeFloat>(b.part[i]);
    return v;
}
THIMBLE_LANE IntLanes spread_bits(std::uint32_t x) {
    IntLanes b;
    for (int i = 0; i < kParts; ++i) b.part[i] = static_cast<std::int32_t>(x) - NativeInt{};
    return b;
}
THIMBLE_LANE Lanes magnitude(Lanes v) { return from_bits(bits(v) & spread_bits(0x7fffffffu)); }
// Towards zero, for |v| < 2^31.
THIMBLE_LANE IntLanes truncate(Lanes v) {
    IntLanes n;
    for (int i = 0; i < kParts; ++i) n.part[i] = __builtin_convertvector(v.part[i], NativeInt);
    return n;
}
THIMBLE_LANE IntLanes shifted_left(IntLanes n, int by) {
    for (int i = 0; i < kParts; ++i) n.part[i] = n.part[i] << by;
    return n;
}
// The low byte of each lane.
THIMBLE_LANE void store_bytes(std::uint8_t* p, IntLanes n) {
    typedef std::uint8_t Bytes __attribute__((vector_size(kNative)));
    for (int i = 0; i < kParts; ++i) {
        const Bytes narrow = __builtin_convertvector(n.part[i], Bytes);
        __builtin_memcpy(p + i * kNative, &narrow, sizeof narrow);
    }
}
THIMBLE_LANE Lanes floats(IntLanes n) {
    Lanes v;
    for (int i = 0; i < kParts; ++i) v.part[i] = __builtin_convertvector(n.part[i], NativeFloat);
    return v;
}
// Of v >= 0, correctly rounded.
THIMBLE_LANE Lanes square_root(Lanes v) {
    for (int i = 0; i < kParts; ++i) {
        for (int k = 0; k < kNative; ++k) v.part[i][k] = __builtin_sqrtf(v.part[i][k]);
    }
    return v;
}
// Nearest integer, ties to even, for |v| < 2^22: at 1.5 * 2^23 a float's last place is one.
THIMBLE_LANE Lanes round_even(Lanes v) {
    const Lanes shift = spread(12582912.0f);
    return (v + shift) - shift;
}
THIMBLE_LANE float round_even(float v) { return (v + 12582912.0f) - 12582912.0f; }

// Lane i meets lane i + half, for halves of 8, 4, 2 and 1: one fixed tree.
template <int half, int... lane>
THIMBLE_LANE NativeFloat upper(NativeFloat v, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(v, v, ((lane + half) % kNative)...);
}
template <int half, class Fn>
THIMBLE_LANE float fold_native(NativeFloat v, Fn fn) {
    v = fn(v, upper<half>(v, std::make_integer_sequence<int, kNative>{}));
    if constexpr (half == 1)
        return v[0];
    else
        return fold_native<half / 2>(v, fn);
}
template <class Fn>
THIMBLE_LANE float fold(Lanes v, Fn fn) {
    for (int half = kParts / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) v.part[i] = fn(v.part[i], v.part[i + half]);
    }
    return fold_native<kNative / 2>(v.part[0], fn);
}
struct Add {
    THIMBLE_LANE_MEMBER NativeFloat operator()(NativeFloat a, NativeFloat b) const { return a + b; }
};
struct Least {
    THIMBLE_LANE_MEMBER NativeFloat operator()(NativeFloat a, NativeFloat b) const {
        return native_min(a, b);
    }
};
struct Most {
    THIMBLE_LANE_MEMBER NativeFloat operator()(NativeFloat a, NativeFloat b) const {
        return native_max(a, b);
    }
};
THIMBLE_LANE float sum(Lanes v) { return fold(v, Add{}); }
THIMBLE_LANE float least_lane(Lanes v) { return fold(v, Least{}); }
THIMBLE_LANE float greatest_lane(Lanes v) { return fold(v, Most{}); }

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
