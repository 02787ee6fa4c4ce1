// SPDX-License-Identifier: Apache-2.0
// Codes of interleaved layouts in vectors: kLanes rows by four columns of bytes, unpacked from
// their bit planes and multiplied with 8-bit activations, exactly.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/layout/interleaved.h"

namespace thimble::cpu::THIMBLE_ISA {

typedef std::uint8_t vb __attribute__((vector_size(4 * kLanes)));
typedef std::uint16_t vh __attribute__((vector_size(4 * kLanes)));
typedef std::uint32_t vu __attribute__((vector_size(4 * kLanes)));

// Where an 8-bit code must be multiplied as a signed byte: only VNNI sums products of two full
// bytes without overflow in between.
#if defined(THIMBLE_ISA_avx512)
constexpr bool kSignedBytes = false;
#else
constexpr bool kSignedBytes = true;
#endif

template <class To>
THIMBLE_INLINE To load_bytes(const void* p) {
    To v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
THIMBLE_INLINE vf to_floats(vi v) { return __builtin_convertvector(v, vf); }
THIMBLE_INLINE vi broadcast(std::int32_t x) { return x - vi{}; }

THIMBLE_INLINE vi load_u8_whole(const std::uint8_t* p) {
#if defined(THIMBLE_ISA_avx512)
    return reinterpret_cast<vi>(
        _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(THIMBLE_ISA_avx2)
    return reinterpret_cast<vi>(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
    vi v;
    for (int i = 0; i < kLanes; ++i) v[i] = p[i];
    return v;
#endif
}
THIMBLE_INLINE vi load_i8_whole(const std::int8_t* p) {
    return (load_u8_whole(reinterpret_cast<const std::uint8_t*>(p)) << 24) >> 24;
}
THIMBLE_INLINE vf load_u8(const std::uint8_t* p) { return to_floats(load_u8_whole(p)); }
// Bits shift .. shift + 3 of every byte.
THIMBLE_INLINE vf load_nibbles(const std::uint8_t* p, int shift) {
    return to_floats((load_u8_whole(p) >> shift) & 15);
}

// A block's scales: halves, floats, or E8M0 bytes for doubled E2M1 values, as e8m0_half_to_f32 has
// them.
THIMBLE_INLINE vf load_scales(const std::uint16_t* p) { return load_f16(p); }
THIMBLE_INLINE vf load_scales(const float* p) { return load(p); }
THIMBLE_INLINE vf load_scales(const std::uint8_t* p) {
    const vi e = load_u8_whole(p);
    return reinterpret_cast<vf>(e < 2 ? (e + 1) << 21 : (e - 1) << 23);
}

// E4M3 values times 2^-8, as which a half reads their bits.
THIMBLE_INLINE vf load_e4m3_256th(const std::uint8_t* p) {
#if defined(THIMBLE_ISA_avx512)
    const __m256i code = _mm256_cvtepu8_epi16(load_bytes<__m128i>(p));
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(code, _mm256_set1_epi16(0x80)), 8);
    const __m256i rest = _mm256_slli_epi16(_mm256_and_si256(code, _mm256_set1_epi16(0x7f)), 7);
    return _mm512_cvtph_ps(_mm256_or_si256(sign, rest));
#elif defined(THIMBLE_ISA_avx2)
    const __m128i code = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    const __m128i sign = _mm_slli_epi16(_mm_and_si128(code, _mm_set1_epi16(0x80)), 8);
    const __m128i rest = _mm_slli_epi16(_mm_and_si128(code, _mm_set1_epi16(0x7f)), 7);
    return _mm256_cvtph_ps(_mm_or_si128(sign, rest));
#else
    const vi code = load_u8_whole(p);
    return halves_to_floats((code & 0x80) << 8 | (code & 0x7f) << 7);
#endif
}

#if defined(THIMBLE_ISA_avx2)
// Products of pairs of columns 0..3 as 16-bit sums.
template <int bits>
THIMBLE_INLINE __m256i pairs4(vb w, const std::int8_t* x) {
    __m256i codes = reinterpret_cast<__m256i>(w);
    __m256i four = _mm256_set1_epi32(load_bytes<std::int32_t>(x));
    if constexpr (bits == 8) {
        four = _mm256_sign_epi8(four, codes);
        codes = _mm256_abs_epi8(codes);
    }
    return _mm256_maddubs_epi16(codes, four);
}
#endif

#if !defined(THIMBLE_ISA_avx2) && !defined(THIMBLE_ISA_avx512) && defined(__SSE2__)
// Bytes 0..7 or 8..15 as 16 bits: signed ones of 8 bits, unsigned of fewer.
template <int bits>
THIMBLE_INLINE __m128i widen_low(__m128i v) {
    return bits == 8 ? _mm_srai_epi16(_mm_unpacklo_epi8(v, v), 8)
                     : _mm_unpacklo_epi8(v, _mm_setzero_si128());
}
template <int bits>
THIMBLE_INLINE __m128i widen_high(__m128i v) {
    return bits == 8 ? _mm_srai_epi16(_mm_unpackhi_epi8(v, v), 8)
                     : _mm_unpackhi_epi8(v, _mm_setzero_si128());
}
#endif

// sum[r] += sum over g in 0..n-1, c in 0..3 of w[g][4 r + c] * x[4 g + c]. Codes of up to 7 bits
// are unsigned; of 8 bits, signed where kSignedBytes, else unsigned.
template <int bits, int n>
THIMBLE_INLINE vi dot(vi sum, const vb* w, const std::int8_t* x) {
#if defined(THIMBLE_ISA_avx512)
    for (int g = 0; g < n; ++g)
        sum = reinterpret_cast<vi>(
            _mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(w[g]),
                                _mm512_set1_epi32(load_bytes<std::int32_t>(x + 4 * g))));
    return sum;
#elif defined(THIMBLE_ISA_avx2)
    // As many as 16 bits hold are added before they are widened.
    constexpr int kHold = bits == 8 ? 1 : 32767 / (2 * 127 * ((1 << bits) - 1));
    constexpr int kTogether = kHold < n ? kHold : n;
    for (int g = 0; g < n; g += kTogether) {
        __m256i pairs = pairs4<bits>(w[g], x + 4 * g);
        for (int i = g + 1; i < g + kTogether && i < n; ++i)
            pairs = _mm256_add_epi16(pairs, pairs4<bits>(w[i], x + 4 * i));
        sum += reinterpret_cast<vi>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return sum;
#elif defined(__SSE2__)
    static_assert(n % 2 == 0);
    __m128i low{}, high{};  // of two rows each: sums of columns 0, 1 and of 2, 3
    for (int g = 0; g < n; g += 2) {
        const __m128i eight =
            widen_low<8>(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x + 4 * g)));
        for (int i = 0; i < 2; ++i) {
            const __m128i codes = reinterpret_cast<__m128i>(w[g + i]);
            const __m128i four =
                i == 0 ? _mm_shuffle_epi32(eight, 0x44) : _mm_shuffle_epi32(eight, 0xee);
            low = _mm_add_epi32(low, _mm_madd_epi16(widen_low<bits>(codes), four));
            high = _mm_add_epi32(high, _mm_madd_epi16(widen_high<bits>(codes), four));
        }
    }
    const __m128 a = _mm_castsi128_ps(low), b = _mm_castsi128_ps(high);
    return sum + reinterpret_cast<vi>(_mm_shuffle_ps(a, b, 0x88)) +
           reinterpret_cast<vi>(_mm_shuffle_ps(a, b, 0xdd));
#else
    for (int g = 0; g < n; ++g) {
        for (int r = 0; r < kLanes; ++r) {
            for (int c = 0; c < 4; ++c) {
                const std::uint8_t code = w[g][4 * r + c];
                sum[r] += (bits == 8 ? static_cast<std::int8_t>(code) : code) * x[4 * g + c];
            }
        }
    }
    return sum;
#endif
}

// Byte j is `value`, a power of two, where bit j is set, else 0.
template <int value>
THIMBLE_INLINE vb spread_bits(const std::uint8_t* bits) {
#if defined(THIMBLE_ISA_avx512)
    return reinterpret_cast<vb>(_mm512_maskz_set1_epi8(load_bytes<std::uint64_t>(bits), value));
#elif defined(THIMBLE_ISA_avx2)
    const __m256i spread =
        _mm256_shuffle_epi8(_mm256_set1_epi32(load_bytes<std::int32_t>(bits)),
                            _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2,
                                             2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3));
    const __m256i own = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201u));
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, own), own);
    return reinterpret_cast<vb>(_mm256_and_si256(set, _mm256_set1_epi8(static_cast<char>(value))));
#else
    typedef std::uint64_t vq __attribute__((vector_size(4 * kLanes)));
    constexpr std::uint64_t kOwn = 0x8040201008040201u, kEach = 0x0101010101010101u;
    const vq spread = {bits[0] * kEach, bits[1] * kEach}, own = {kOwn, kOwn};
    return reinterpret_cast<vb>(reinterpret_cast<vb>(spread & own) == reinterpret_cast<vb>(own)) &
           static_cast<std::uint8_t>(value);
#endif
}

// codes[g], g in 0..7: columns 4 g .. 4 g + 3 of rows `row` .. row + kLanes.
THIMBLE_INLINE void read_codes(const CodePlane<8>& plane, int row, vb* codes) {
    for (int g = 0; g < 8; ++g) {
        codes[g] = load_bytes<vb>(plane.codes[g] + 4 * row);
        if constexpr (kSignedBytes) codes[g] ^= 128;
    }
}
THIMBLE_INLINE void read_codes(const CodePlane<1>& plane, int row, vb* codes) {
    for (int g = 0; g < 8; ++g) codes[g] = spread_bits<1>(plane.bits[g] + row / 2);
}
THIMBLE_INLINE void read_codes(const CodePlane<4>& plane, int row, vb* codes) {
    for (int g = 0; g < 4; ++g) {
        // Shifts of 16 bits are what the instruction sets have; the mask drops what crosses.
        const vb both = load_bytes<vb>(plane.low[g] + 4 * row);
        codes[g] = both & 15;
        codes[g + 4] = reinterpret_cast<vb>(reinterpret_cast<vh>(both) >> 4) & 15;
    }
}
THIMBLE_INLINE void read_codes(const CodePlane<2>& plane, int row, vb* codes) {
    for (int h = 0; h < 2; ++h) {
        const vb four = load_bytes<vb>(plane.codes[h] + 4 * row);
        const vh wide = reinterpret_cast<vh>(four);
        codes[4 * h] = four & 3;
        codes[4 * h + 1] = reinterpret_cast<vb>(wide >> 2) & 3;
        codes[4 * h + 2] = reinterpret_cast<vb>(wide >> 4) & 3;
        codes[4 * h + 3] = reinterpret_cast<vb>(wide >> 6) & 3;
    }
}
THIMBLE_INLINE void read_codes(const CodePlane<3>& plane, int row, vb* codes) {
    read_codes(plane.low, row, codes);
    for (int g = 0; g < 8; ++g) codes[g] |= spread_bits<4>(plane.high.bits[g] + row / 2);
}
THIMBLE_INLINE void read_codes(const CodePlane<5>& plane, int row, vb* codes) {
    read_codes(plane.low, row, codes);
    for (int g = 0; g < 8; ++g) codes[g] |= spread_bits<16>(plane.high.bits[g] + row / 2);
}
THIMBLE_INLINE void read_codes(const CodePlane<6>& plane, int row, vb* codes) {
    read_codes(plane.low, row, codes);
    for (int h = 0; h < 2; ++h) {
        const vh high = load_bytes<vh>(plane.high.codes[h] + 4 * row);
        codes[4 * h] |= reinterpret_cast<vb>(high << 4) & 48;
        codes[4 * h + 1] |= reinterpret_cast<vb>(high << 2) & 48;
        codes[4 * h + 2] |= reinterpret_cast<vb>(high) & 48;
        codes[4 * h + 3] |= reinterpret_cast<vb>(high >> 2) & 48;
    }
}

// Each of 8 vectors' codes becomes a byte of a table of sixteen.
THIMBLE_INLINE void look_up(const std::uint8_t* bytes, vb* codes) {
#if defined(THIMBLE_ISA_avx512)
    const __m512i table = _mm512_broadcast_i32x4(load_bytes<__m128i>(bytes));
    for (int g = 0; g < 8; ++g)
        codes[g] =
            reinterpret_cast<vb>(_mm512_shuffle_epi8(table, reinterpret_cast<__m512i>(codes[g])));
#elif defined(THIMBLE_ISA_avx2)
    const __m256i table = _mm256_broadcastsi128_si256(load_bytes<__m128i>(bytes));
    for (int g = 0; g < 8; ++g)
        codes[g] =
            reinterpret_cast<vb>(_mm256_shuffle_epi8(table, reinterpret_cast<__m256i>(codes[g])));
#else
    for (int g = 0; g < 8; ++g) {
        vb found{};
        for (std::uint8_t i = 0; i < 16; ++i)
            found |= reinterpret_cast<vb>(codes[g] == i) & bytes[i];
        codes[g] = found;
    }
#endif
}

// Values of 4-bit codes, offset as codes of Values::kBits bits are: see dot.
template <class Values>
struct ValueTable {
    std::uint8_t bytes[16];
};
template <class Values>
static constexpr ValueTable<Values> make_table() {
    ValueTable<Values> table{};
    constexpr int kAdded = kSignedBytes && Values::kBits == 8 ? 0 : Values::kOffset;
    for (int i = 0; i < 16; ++i)
        table.bytes[i] = static_cast<std::uint8_t>(Values::value(i) + kAdded);
    return table;
}
template <class Values>
THIMBLE_INLINE void read_codes(const TablePlane<Values>& plane, int row, vb* codes) {
    constexpr ValueTable<Values> kTable = make_table<Values>();
    read_codes(plane.codes, row, codes);
    look_up(kTable.bytes, codes);
}

// Codes of a table in which one code stands for a value of the row's own.
template <class Values, int bits>
THIMBLE_INLINE void read_special(const CodePlane<bits>& plane, const std::int8_t* special, int row,
                                 vb* codes) {
    struct Table {
        std::uint8_t bytes[16] = {};
    };
    static constexpr Table kTable = [] {
        Table table;
        for (int i = 0; i < 1 << bits; ++i)
            table.bytes[i] = static_cast<std::uint8_t>(Values::value(i) + Values::kOffset);
        return table;
    }();
    read_codes(plane, row, codes);
    const vi own = (load_i8_whole(special) + Values::kOffset) * 0x01010101;
    vb is_special[8];
    for (int g = 0; g < 8; ++g) is_special[g] = reinterpret_cast<vb>(codes[g] == Values::kSpecial);
    look_up(kTable.bytes, codes);
    for (int g = 0; g < 8; ++g) {
        codes[g] = (codes[g] & ~is_special[g]) | (reinterpret_cast<vb>(own) & is_special[g]);
    }
}

// Sixteen values as fixed point of two bytes, as codes of 8 bits are: see dot. A value is unit *
// (256 high + low), missed by at most half a unit, which is the largest magnitude over 32639.
struct ByteTable {
    std::uint8_t high[16], low[16];
    float unit;
};
THIMBLE_INLINE ByteTable make_byte_table(const float* values) {
    constexpr float kMost = 127 * 256 + 127;
    constexpr int kAdded = kSignedBytes ? 0 : 128;
    float largest = 0;
    for (int i = 0; i < 16; ++i) {
        const float size = values[i] < 0 ? -values[i] : values[i];
        largest = size > largest ? size : largest;
    }
    ByteTable table;
    table.unit = largest / kMost;
    const float inverse = largest > 1e-30f ? kMost / largest : 0.0f;
    for (int i = 0; i < 16; ++i) {
        const float shifted = values[i] * inverse + 12582912.0f;  // rounds to an integer
        std::int32_t bits;
        __builtin_memcpy(&bits, &shifted, sizeof bits);
        const std::int32_t whole = bits - 0x4b400000, high = (whole + 128) >> 8;
        table.high[i] = static_cast<std::uint8_t>(high + kAdded);
        table.low[i] = static_cast<std::uint8_t>(whole - 256 * high + kAdded);
    }
    return table;
}

// Sixteen floats that 4-bit codes name.
struct FloatTable {
    vf part[16 / kLanes];
};
THIMBLE_INLINE FloatTable load_table(const float* values) {
    FloatTable table;
    for (int i = 0; i < 16 / kLanes; ++i) table.part[i] = load(values + i * kLanes);
    return table;
}
THIMBLE_INLINE vf look_up(const FloatTable& table, vi code) {
#if defined(THIMBLE_ISA_avx512)
    return _mm512_permutexvar_ps(reinterpret_cast<__m512i>(code), table.part[0]);
#elif defined(THIMBLE_ISA_avx2)
    const __m256i at = reinterpret_cast<__m256i>(code);
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.part[0], at),
                            _mm256_permutevar8x32_ps(table.part[1], at),
                            reinterpret_cast<__m256>(code << 28));
#else
    vf v;
    for (int i = 0; i < kLanes; ++i) v[i] = table.part[code[i] / kLanes][code[i] % kLanes];
    return v;
#endif
}

}  // namespace thimble::cpu::THIMBLE_ISA
