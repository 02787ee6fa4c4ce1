// SPDX-License-Identifier: Apache-2.0
// Numbers of coded exponents (kernels/layout/exponent_code.h), a chunk at a time: symbols of a few
// hundred numbers, then the numbers themselves. With byte permutes of 512 bits the table of codes
// lies in four registers and each lane is a stream.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"
#include "kernels/layout/exponent_code.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

using Code = ExponentCode;
constexpr int kBlock = Code::kBlock;
static_assert(kBlock % Code::kStep == 0 && Code::kChunk % kBlock == 0);

// Reads words no further than `end`; past it are zeros, and `missed` counts them.
struct Words {
    const std::uint16_t* at;
    const std::uint16_t* end;
    std::int64_t missed = 0;

    std::uint32_t next() {
        if (at < end) return *at++;
        ++missed;
        return 0;
    }
};

struct Streams {
    std::uint32_t window[Code::kStreams] = {};  // the next bits on top
    std::int32_t bits[Code::kStreams] = {};     // of it that are there
};

// A step's symbols, their codes' lengths on top; where there is room, words are read whether or not
// they are wanted.
template <bool room>
THIMBLE_INLINE void step(Streams& s, Words& words, const std::uint8_t* table,
                         std::uint8_t* symbols) {
    for (int l = 0; l < Code::kStreams; ++l) {
        std::uint32_t window = s.window[l];
        int bits = s.bits[l];
        const bool few = bits < Code::kWordBits;
        std::uint32_t word = 0;
        if constexpr (room) {
            word = *words.at & (0u - static_cast<std::uint32_t>(few));
            words.at += few;
        } else if (few) {
            word = words.next();
        }
        window |= word << ((Code::kWordBits - bits) & 31);
        const int first = table[window >> 24];
        window <<= first >> 4;
        const int second = table[window >> 24];
        s.window[l] = window << (second >> 4);
        s.bits[l] = bits + (few ? Code::kWordBits : 0) - (first >> 4) - (second >> 4);
        symbols[l] = static_cast<std::uint8_t>(first);
        symbols[l + Code::kStreams] = static_cast<std::uint8_t>(second);
    }
}

#if defined(THIMBLE_ISA_avx512)
struct Lanes {
    __m512i window, bits;
};

THIMBLE_INLINE void refill(Lanes& lanes, const std::uint16_t*& words) {
    const __m512i most = _mm512_set1_epi32(Code::kWordBits);
    const __mmask16 few = _mm512_cmplt_epi32_mask(lanes.bits, most);
    const __m256i next = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
    const __m512i word = _mm512_maskz_expand_epi32(few, _mm512_cvtepu16_epi32(next));
    const __m512i below = _mm512_sllv_epi32(word, _mm512_sub_epi32(most, lanes.bits));
    lanes.window = _mm512_or_si512(lanes.window, below);
    lanes.bits = _mm512_mask_add_epi32(lanes.bits, few, lanes.bits, most);
    words += __builtin_popcount(few);
}

// Sixteen of the same.
THIMBLE_INLINE void symbols_of(Lanes& lanes, const __m512i* table, std::uint8_t* out) {
    constexpr __mmask64 kLow = 0x1111111111111111u;  // the low byte of each lane
    const __m512i top = _mm512_srli_epi32(lanes.window, 24);
    const __m512i low = _mm512_maskz_permutex2var_epi8(kLow, table[0], top, table[1]);
    const __m512i high = _mm512_maskz_permutex2var_epi8(kLow, table[2], top, table[3]);
    const __mmask16 upper = _mm512_movepi32_mask(lanes.window);
    const __m512i entry = _mm512_mask_mov_epi32(low, upper, high);
    const __m512i length = _mm512_srli_epi32(entry, 4);
    lanes.window = _mm512_sllv_epi32(lanes.window, length);
    lanes.bits = _mm512_sub_epi32(lanes.bits, length);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(entry));
}

THIMBLE_INLINE void block(Streams& s, Words& words, const std::uint8_t* codes,
                          std::uint8_t* symbols) {
    __m512i table[4];
    for (int i = 0; i < 4; ++i) table[i] = _mm512_loadu_si512(codes + 64 * i);
    Lanes a{_mm512_loadu_si512(s.window), _mm512_loadu_si512(s.bits)};
    Lanes b{_mm512_loadu_si512(s.window + 16), _mm512_loadu_si512(s.bits + 16)};
    const std::uint16_t* at = words.at;
    for (int k = 0; k < kBlock; k += Code::kStep) {
        refill(a, at);
        refill(b, at);
        symbols_of(a, table, symbols + k);
        symbols_of(b, table, symbols + k + 16);
        symbols_of(a, table, symbols + k + 32);
        symbols_of(b, table, symbols + k + 48);
    }
    words.at = at;
    _mm512_storeu_si512(s.window, a.window), _mm512_storeu_si512(s.bits, a.bits);
    _mm512_storeu_si512(s.window + 16, b.window), _mm512_storeu_si512(s.bits + 16, b.bits);
}

// Whole 64s of exponents; `escapes` may be read 64 bytes on.
THIMBLE_INLINE __m512i exponents_of(const std::uint8_t* symbols, __m512i of_symbol,
                                    const std::uint8_t*& escapes) {
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i symbol = _mm512_and_si512(_mm512_loadu_si512(symbols), low);
    const __mmask64 escaped = _mm512_cmpeq_epi8_mask(symbol, low);
    const __m512i found = _mm512_shuffle_epi8(of_symbol, symbol);
    const __m512i out = _mm512_mask_expand_epi8(found, escaped, _mm512_loadu_si512(escapes));
    escapes += __builtin_popcountll(escaped);
    return out;
}

THIMBLE_INLINE void merge(__m512i exponent, const std::uint8_t* rest, std::uint16_t* out) {
    alignas(64) static constexpr auto kOrder = [] {
        struct {
            std::uint8_t byte[128];
        } order{};
        for (int i = 0; i < 64; ++i) {
            order.byte[2 * i] = static_cast<std::uint8_t>(i);
            order.byte[2 * i + 1] = static_cast<std::uint8_t>(64 + i);
        }
        return order;
    }();
    const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
    const __m512i r = _mm512_loadu_si512(rest);
    // Where the mask has a bit the first, else the second.
    const __m512i high = _mm512_ternarylogic_epi32(sign, r, _mm512_srli_epi16(exponent, 1), 0xca);
    const __m512i low = _mm512_ternarylogic_epi32(sign, _mm512_slli_epi16(exponent, 7), r, 0xca);
    for (int half = 0; half < 2; ++half) {
        const __m512i order = _mm512_load_si512(kOrder.byte + 64 * half);
        _mm512_storeu_si512(out + 32 * half, _mm512_permutex2var_epi8(low, order, high));
    }
}
#endif

// Numbers one by one.
THIMBLE_INLINE void merge(const std::uint8_t* symbols, std::int64_t n,
                          const std::uint8_t* exponents, const std::uint8_t*& escapes,
                          const std::uint8_t* escapes_end, const std::uint8_t* rest,
                          std::uint16_t* out) {
    for (std::int64_t i = 0; i < n; ++i) {
        const int symbol = symbols[i] & 15;
        unsigned e = exponents[symbol];
        if (symbol == Code::kEscape) {
            e = escapes < escapes_end ? *escapes : 0;
            ++escapes;
        }
        out[i] = static_cast<std::uint16_t>((rest[i] & 0x80u) << 8 | e << 7 | (rest[i] & 0x7fu));
    }
}

}  // namespace

void decode_exponents(const DecodeExponents& p) {
    *p.sound = false;
    if (p.words_end - p.words < 1) return;
    const std::int64_t escaped = p.words[0];
    if (p.words_end - p.words < 1 + (escaped + 1) / 2) return;
    const auto* escapes = reinterpret_cast<const std::uint8_t*>(p.words + 1);
    const std::uint8_t* const escapes_end = escapes + escaped;
    Words words{p.words + 1 + (escaped + 1) / 2, p.words_end};
    Streams streams;
    alignas(64) std::uint8_t symbols[kBlock];
    for (std::int64_t k = 0; k < p.count; k += kBlock) {
        const std::int64_t n = p.count - k < kBlock ? p.count - k : kBlock;
        // A block takes at most half a word for each number.
        const bool room = p.readable_end - words.at >= kBlock / 2 + Code::kStreams;
#if defined(THIMBLE_ISA_avx512)
        if (room && n == kBlock) {
            block(streams, words, p.table, symbols);
            const auto* last = reinterpret_cast<const std::uint8_t*>(p.readable_end);
            if (last - escapes >= kBlock + 64) {
                const __m512i of_symbol = _mm512_broadcast_i32x4(
                    _mm_loadu_si128(reinterpret_cast<const __m128i*>(p.exponents)));
                for (std::int64_t i = 0; i < kBlock; i += 64)
                    merge(exponents_of(symbols + i, of_symbol, escapes), p.rest + k + i,
                          p.out + k + i);
                continue;
            }
        } else if (room) {
#else
        if (room) {
#endif
            for (std::int64_t i = 0; i < n; i += Code::kStep)
                step<true>(streams, words, p.table, symbols + i);
        } else {
            for (std::int64_t i = 0; i < n; i += Code::kStep)
                step<false>(streams, words, p.table, symbols + i);
        }
        merge(symbols, n, p.exponents, escapes, escapes_end, p.rest + k, p.out + k);
    }
    *p.sound = words.at == p.words_end && words.missed == 0 && escapes == escapes_end;
}

}  // namespace thimble::cpu::THIMBLE_ISA
