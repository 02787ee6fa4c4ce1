// SPDX-License-Identifier: Apache-2.0
// Float vectors of the instruction set that this file is compiled for: 4, 8 or 16 lanes. Kernels
// are written once over them; only what the compiler's vector extension lacks is an intrinsic here.
// Everything is static and always inlined: an out-of-line copy could be picked by the linker for
// another level's caller.
#pragma once

#include <cstdint>
#include <utility>

#include "kernels/layout/half.h"

#if defined(THIMBLE_ISA_avx2) || defined(THIMBLE_ISA_avx512)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#define THIMBLE_INLINE static inline __attribute__((always_inline))

namespace thimble::cpu::THIMBLE_ISA {

#if defined(THIMBLE_ISA_avx512)
constexpr int kLanes = 16;
#elif defined(THIMBLE_ISA_avx2)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float vf __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t vi __attribute__((vector_size(4 * kLanes)));
typedef float vf_unaligned __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

THIMBLE_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
THIMBLE_INLINE void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }
THIMBLE_INLINE vf broadcast(float x) { return x - vf{}; }

// The first n elements of a vector, the rest zero; n >= kLanes: all.
THIMBLE_INLINE vf load_part(const float* p, std::int64_t n) {
    if (n >= kLanes) return load(p);
    float lane[kLanes] = {};
    for (std::int64_t i = 0; i < n; ++i) lane[i] = p[i];
    return load(lane);
}
THIMBLE_INLINE void store_part(float* p, vf v, std::int64_t n) {
    if (n >= kLanes) return store(p, v);
    for (std::int64_t i = 0; i < n; ++i) p[i] = v[i];
}

// a * b + c, rounded once where the instruction set can.
THIMBLE_INLINE vf fma(vf a, vf b, vf c) {
#if defined(THIMBLE_ISA_avx512)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(THIMBLE_ISA_avx2)
    return _mm256_fmadd_ps(a, b, c);
#else
    return a * b + c;
#endif
}
THIMBLE_INLINE float fma(float a, float b, float c) {
#if defined(THIMBLE_ISA_avx512) || defined(THIMBLE_ISA_avx2)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}
// The second operand where either is NaN.
THIMBLE_INLINE vf max(vf a, vf b) { return a > b ? a : b; }
THIMBLE_INLINE vf min(vf a, vf b) { return a < b ? a : b; }

// Sum of the lanes, always halves first: (l0 + l4) + ..., so a dot product's last step is one
// fixed tree.
template <int half, int... lane>
THIMBLE_INLINE vf upper(vf v, std::integer_sequence<int, lane...>) {
    return __builtin_shufflevector(v, v, ((lane + half) % kLanes)...);
}
template <int half = kLanes / 2>
THIMBLE_INLINE float sum_lanes(vf v) {
    v = v + upper<half>(v, std::make_integer_sequence<int, kLanes>{});
    if constexpr (half == 1)
        return v[0];
    else
        return sum_lanes<half / 2>(v);
}

// One step of the sums below: from pairs of vectors whose runs of 2 * half lanes each belong to one
// sum, vectors whose runs of `half` lanes do, the runs of a and b taking turns.
template <int half, int... lane>
THIMBLE_INLINE vf fold(vf a, vf b, std::integer_sequence<int, lane...>) {
    const vf low = __builtin_shufflevector(
        a, b, ((lane / half % 2) * kLanes + lane / (2 * half) * 2 * half + lane % half)...);
    const vf high = __builtin_shufflevector(
        a, b, ((lane / half % 2) * kLanes + lane / (2 * half) * 2 * half + lane % half + half)...);
    return low + high;
}
template <int half>
THIMBLE_INLINE vf fold_all(vf* v) {
    for (int i = 0; i < half; ++i)
        v[i] = fold<half>(v[i], v[i + half], std::make_integer_sequence<int, kLanes>{});
    if constexpr (half == 1)
        return v[0];
    else
        return fold_all<half / 2>(v);
}
// Lane i becomes the sum of v[i]'s lanes, bit for bit as sum_lanes adds them.
THIMBLE_INLINE vf sum_each(vf (&v)[kLanes]) { return fold_all<kLanes / 2>(v); }

template <int half = kLanes / 2>
THIMBLE_INLINE float max_lanes(vf v) {
    v = max(v, upper<half>(v, std::make_integer_sequence<int, kLanes>{}));
    if constexpr (half == 1)
        return v[0];
    else
        return max_lanes<half / 2>(v);
}

#if !defined(THIMBLE_ISA_avx2) && !defined(THIMBLE_ISA_avx512)
// Halves, each the low bits of a whole number. As a float, a half's exponent and fraction are 2^112
// times too small; infinity and NaN have the largest exponent in both.
THIMBLE_INLINE vf halves_to_floats(vi halves) {
    const vi magnitude = (halves & 0x7fff) << 13;
    const vi scaled = reinterpret_cast<vi>(reinterpret_cast<vf>(magnitude) * 0x1p112f);
    const vi special = (magnitude >= 0x1f << 23) & 0x7f800000;
    return reinterpret_cast<vf>(scaled | special | (halves & 0x8000) << 16);
}
#endif

// kLanes halves -> floats.
THIMBLE_INLINE vf load_f16(const std::uint16_t* p) {
#if defined(THIMBLE_ISA_avx512)
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(THIMBLE_ISA_avx2)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    vi halves;
    for (int i = 0; i < kLanes; ++i) halves[i] = p[i];
    return halves_to_floats(halves);
#endif
}
THIMBLE_INLINE vf broadcast_f16(std::uint16_t half) {
#if defined(THIMBLE_ISA_avx512)
    return _mm512_cvtph_ps(_mm256_set1_epi16(static_cast<short>(half)));
#elif defined(THIMBLE_ISA_avx2)
    return _mm256_cvtph_ps(_mm_set1_epi16(static_cast<short>(half)));
#else
    return broadcast(f16_to_f32(half));
#endif
}
THIMBLE_INLINE void store_f16(std::uint16_t* p, vf v) {
#if defined(THIMBLE_ISA_avx512)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(THIMBLE_ISA_avx2)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
    for (int i = 0; i < kLanes; ++i) p[i] = f32_to_f16(v[i]);
#endif
}
THIMBLE_INLINE vf load_bf16(const std::uint16_t* p) {
#if defined(THIMBLE_ISA_avx512)
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
#elif defined(THIMBLE_ISA_avx2)
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
#else
    vf v;
    for (int i = 0; i < kLanes; ++i) v[i] = bf16_to_f32(p[i]);
    return v;
#endif
}
THIMBLE_INLINE vf load_i8(const std::int8_t* p) {
#if defined(THIMBLE_ISA_avx512)
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(THIMBLE_ISA_avx2)
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
    vf v;
    for (int i = 0; i < kLanes; ++i) v[i] = static_cast<float>(p[i]);
    return v;
#endif
}

// e^x. Relative error at most 2.5e-7 (FMA) or 4e-7 (portable) from -87.3 to 88.3; below, 0; above,
// the value at 88.3. NaN stays NaN.
THIMBLE_INLINE vf exp(vf x) {
    const vf high = broadcast(88.3f);
    const vf magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const vf clamped = x > high ? high : x;
    const vf shifted = fma(clamped, broadcast(1.44269504f), magic);
    const vf n = shifted - magic;
    vf r = fma(n, broadcast(-0.693359375f), clamped);
    r = fma(n, broadcast(2.12194440e-4f), r);
    // Taylor's series to r^7; |r| <= 0.3466, so its tail is below 6e-9.
    vf p = broadcast(1.0f / 5040);
    p = fma(p, r, broadcast(1.0f / 720));
    p = fma(p, r, broadcast(1.0f / 120));
    p = fma(p, r, broadcast(1.0f / 24));
    p = fma(p, r, broadcast(1.0f / 6));
    p = fma(p, r, broadcast(0.5f));
    p = fma(p, r, broadcast(1.0f));
    p = fma(p, r, broadcast(1.0f));
    const vi exponent = (reinterpret_cast<vi>(shifted) - 0x4b400000 + 127) << 23;
    const vf result = p * reinterpret_cast<vf>(exponent);
    return x < broadcast(-87.3f) ? vf{} : result;
}

// tanh(x) = 1 - 2 / (e^2x + 1): absolute error at most 3e-7.
THIMBLE_INLINE vf tanh(vf x) {
    return broadcast(1.0f) - broadcast(2.0f) / (exp(x + x) + broadcast(1.0f));
}

}  // namespace thimble::cpu::THIMBLE_ISA
