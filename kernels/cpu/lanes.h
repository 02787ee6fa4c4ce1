// SPDX-License-Identifier: Apache-2.0
// Sixteen lanes at every level: one vector where registers have 64 bytes, else what the compiler
// makes of its vector extension. Used by kernels whose lanes are the rows of an interleaved layout.
#pragma once

#include "kernels/cpu/simd.h"

namespace thimble::cpu::THIMBLE_ISA {

typedef float f32x16 __attribute__((vector_size(64)));
typedef std::int32_t i32x16 __attribute__((vector_size(64)));
typedef std::uint32_t u32x16 __attribute__((vector_size(64)));
typedef std::uint8_t u8x64 __attribute__((vector_size(64)));
typedef std::uint8_t u8x16 __attribute__((vector_size(16)));
typedef std::int8_t i8x16 __attribute__((vector_size(16)));
typedef std::uint16_t u16x16 __attribute__((vector_size(32)));
typedef std::uint8_t u8x32 __attribute__((vector_size(32)));

template <class To, class From>
THIMBLE_INLINE To load_as(const From* p) {
    To v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
THIMBLE_INLINE f32x16 to_floats(i32x16 v) { return __builtin_convertvector(v, f32x16); }
THIMBLE_INLINE f32x16 splat(float x) { return x - f32x16{}; }
#if !defined(THIMBLE_ISA_avx512)  // there it is a vf, which has its fma
THIMBLE_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
#if defined(THIMBLE_ISA_avx2)
    struct Halves {
        __m256 v[2];
    };
    const Halves x = __builtin_bit_cast(Halves, a), y = __builtin_bit_cast(Halves, b),
                 z = __builtin_bit_cast(Halves, c);
    const Halves r = {
        {_mm256_fmadd_ps(x.v[0], y.v[0], z.v[0]), _mm256_fmadd_ps(x.v[1], y.v[1], z.v[1])}};
    return __builtin_bit_cast(f32x16, r);
#else
    return a * b + c;
#endif
}
#endif

// 16 halves -> floats.
THIMBLE_INLINE f32x16 load_half16(const std::uint16_t* p) {
#if defined(THIMBLE_ISA_avx512)
    return load_f16(p);
#else
    f32x16 out;
    for (int i = 0; i < 16; i += kLanes) {
        const vf part = load_f16(p + i);
        __builtin_memcpy(reinterpret_cast<char*>(&out) + 4 * i, &part, sizeof part);
    }
    return out;
#endif
}
THIMBLE_INLINE f32x16 load_bf16x16(const std::uint16_t* p) {
    const i32x16 wide = __builtin_convertvector(load_as<u16x16>(p), i32x16);
    return __builtin_bit_cast(f32x16, wide << 16);
}

// sum[r] += sum over c in 0..3 of u[4 r + c] * s[c], exact; u unsigned, s signed bytes.
THIMBLE_INLINE i32x16 dot4(i32x16 sum, u8x64 u, const std::int8_t* s) {
#if defined(THIMBLE_ISA_avx512)
    std::int32_t four;
    __builtin_memcpy(&four, s, 4);
    return __builtin_bit_cast(
        i32x16, _mm512_dpbusd_epi32(__builtin_bit_cast(__m512i, sum),
                                    __builtin_bit_cast(__m512i, u), _mm512_set1_epi32(four)));
#elif defined(THIMBLE_ISA_avx2)
    // vpmaddubsw adds pairs in 16 bits: codes of up to 7 bits fit, so the eighth goes alone.
    std::int32_t four;
    __builtin_memcpy(&four, s, 4);
    const __m256i x = _mm256_set1_epi32(four), low = _mm256_set1_epi8(127),
                  one = _mm256_set1_epi16(1);
    struct Halves {
        __m256i v[2];
    };
    const Halves w = __builtin_bit_cast(Halves, u);
    Halves total = __builtin_bit_cast(Halves, sum);
    for (int h = 0; h < 2; ++h) {
        const __m256i seven = _mm256_maddubs_epi16(_mm256_and_si256(w.v[h], low), x);
        const __m256i top = _mm256_maddubs_epi16(
            _mm256_and_si256(_mm256_srli_epi16(w.v[h], 7), _mm256_set1_epi8(1)), x);
        total.v[h] = _mm256_add_epi32(total.v[h], _mm256_madd_epi16(seven, one));
        total.v[h] =
            _mm256_add_epi32(total.v[h], _mm256_madd_epi16(top, _mm256_set1_epi16(128)));
    }
    return __builtin_bit_cast(i32x16, total);
#else
    for (int r = 0; r < 16; ++r) {
        for (int c = 0; c < 4; ++c) sum[r] += u[4 * r + c] * s[c];
    }
    return sum;
#endif
}

// Byte j is 16 where bit j is set, else 0.
THIMBLE_INLINE u8x64 bit_to_16(const std::uint8_t* bits) {
#if defined(THIMBLE_ISA_avx512)
    std::uint64_t mask;
    __builtin_memcpy(&mask, bits, 8);
    return __builtin_bit_cast(u8x64, _mm512_maskz_set1_epi8(mask, 16));
#else
    u8x64 v;
    for (int j = 0; j < 64; ++j) v[j] = static_cast<std::uint8_t>((bits[j / 8] >> j % 8 & 1) << 4);
    return v;
#endif
}

}  // namespace thimble::cpu::THIMBLE_ISA
