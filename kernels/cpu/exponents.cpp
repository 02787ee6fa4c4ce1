// SPDX-License-Identifier: Apache-2.0
// Numbers of coded exponents (kernels/layout/exponent_code.h), a chunk at a time. With vectors each
// lane is a stream: byte permutes of 512 bits look up the table of codes in two registers, shuffles
// of 256 bits in eight.
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

// A chunk that is decoded up to number `at`.
struct Chunk {
    explicit Chunk(const DecodeExponents& problem) : p(problem) {
        const std::int64_t size = p.words_end - p.words, escaped = size > 0 ? p.words[0] : 0;
        const std::int64_t head = 1 + (escaped + 1) / 2;
        sound = size >= head;
        if (!sound) return;
        escapes = reinterpret_cast<const std::uint8_t*>(p.words + 1);
        escapes_end = escapes + escaped;
        words = {p.words + head, p.words_end};
    }
    // A block takes at most half a word for each number.
    [[nodiscard]] bool has_room() const {
        return p.readable_end - words.at >= kBlock / 2 + Code::kStreams;
    }
    // Whether vectors may read and write all that a block may take.
    [[nodiscard]] bool is_fast() const {
        return sound && p.count - at >= kBlock && has_room() &&
               reinterpret_cast<const std::uint8_t*>(p.readable_end) - escapes >= kBlock + 64;
    }
    const DecodeExponents& p;
    bool sound;
    std::int64_t at = 0;
    const std::uint8_t *escapes = nullptr, *escapes_end = nullptr;
    Words words{nullptr, nullptr};
    Streams streams;
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
        const int first = table[window >> (32 - Code::kLongest)];
        window <<= first >> 4;
        const int second = table[window >> (32 - Code::kLongest)];
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

// Sixteen of the same: symbols, their codes' lengths on top, in the low bytes of lanes.
THIMBLE_INLINE __m512i symbols_of(Lanes& lanes, const __m512i* table) {
    constexpr __mmask64 kLow = 0x1111111111111111u;
    const __m512i top = _mm512_srli_epi32(lanes.window, 32 - Code::kLongest);
    const __m512i entry = _mm512_maskz_permutex2var_epi8(kLow, table[0], top, table[1]);
    const __m512i length = _mm512_srli_epi32(entry, 4);
    lanes.window = _mm512_sllv_epi32(lanes.window, length);
    lanes.bits = _mm512_sub_epi32(lanes.bits, length);
    return entry;
}

// The next 64 in their order.
THIMBLE_INLINE __m512i step(Lanes& a, Lanes& b, const __m512i* table) {
    alignas(64) static constexpr auto kOrder = [] {
        struct {
            std::uint8_t byte[64];
        } order{};
        for (int i = 0; i < 64; ++i) order.byte[i] = static_cast<std::uint8_t>(i % 16 * 4 + i / 16);
        return order;
    }();
    const __m512i a0 = symbols_of(a, table), b0 = symbols_of(b, table);
    const __m512i a1 = symbols_of(a, table), b1 = symbols_of(b, table);
    const __m512i three = _mm512_ternarylogic_epi32(a0, _mm512_slli_epi32(b0, 8),
                                                    _mm512_slli_epi32(a1, 16), 0xfe);  // or
    const __m512i all = _mm512_or_si512(three, _mm512_slli_epi32(b1, 24));
    return _mm512_permutexvar_epi8(_mm512_load_si512(kOrder.byte), all);
}

// Of 64 symbols; `escapes` may be read 64 bytes on.
THIMBLE_INLINE __m512i exponents_of(__m512i symbols, __m512i of_symbol,
                                    const std::uint8_t*& escapes) {
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i symbol = _mm512_and_si512(symbols, low);
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

// A chunk's next block, in registers.
struct Pipe {
    THIMBLE_INLINE Pipe begin(Chunk& c) {
        const Streams& s = c.streams;
        return {{_mm512_loadu_si512(s.window), _mm512_loadu_si512(s.bits)},
                {_mm512_loadu_si512(s.window + 16), _mm512_loadu_si512(s.bits + 16)},
                c.words.at,
                c.escapes,
                c.p.rest + c.at,
                c.p.out + c.at};
    }
    Lanes a, b;
    const std::uint16_t* words;
    const std::uint8_t* escapes;
    const std::uint8_t* rest;
    std::uint16_t* out;
};
THIMBLE_INLINE void next(Pipe& p, int k, const __m512i* table, __m512i of_symbol) {
    refill(p.a, p.words);
    refill(p.b, p.words);
    merge(exponents_of(step(p.a, p.b, table), of_symbol, p.escapes), p.rest + k, p.out + k);
}
THIMBLE_INLINE void end(const Pipe& p, Chunk& c) {
    Streams& s = c.streams;
    _mm512_storeu_si512(s.window, p.a.window), _mm512_storeu_si512(s.bits, p.a.bits);
    _mm512_storeu_si512(s.window + 16, p.b.window), _mm512_storeu_si512(s.bits + 16, p.b.bits);
    c.words.at = p.words, c.escapes = p.escapes, c.at += kBlock;
}
struct Tables {
    __m512i table[2], of_symbol;
};
THIMBLE_INLINE Tables tables_of(const DecodeExponents& p) {
    static_assert(Code::kTable == 128);
    return {{_mm512_loadu_si512(p.table), _mm512_loadu_si512(p.table + 64)},
            _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p.exponents)))};
}

THIMBLE_INLINE void block(Chunk& chunk) {
    const Tables t = tables_of(chunk.p);
    Pipe p = Pipe::begin(chunk);
    for (int k = 0; k < kBlock; k += Code::kStep) next(p, k, t.table, t.of_symbol);
    end(p, chunk);
}
// Blocks of two chunks.
THIMBLE_INLINE void block(Chunk& one, Chunk& other) {
    const Tables t = tables_of(one.p);
    Pipe p = Pipe::begin(one), q = Pipe::begin(other);
    for (int k = 0; k < kBlock; k += Code::kStep) {
        next(p, k, t.table, t.of_symbol);
        next(q, k, t.table, t.of_symbol);
    }
    end(p, one), end(q, other);
}
#endif

#if defined(THIMBLE_ISA_avx2)
// Four vectors of eight streams; the top bits of all 32 are the bytes of one, which are looked up
// sixteen entries of the table at a time.
struct Lanes {
    __m256i window[4], bits[4];
};

// Where the words go for each mask of lanes that want one.
struct Places {
    std::uint8_t lane[256][8];
};
constexpr Places kPlaces = [] {
    Places places{};
    for (int mask = 0; mask < 256; ++mask) {
        std::uint8_t next = 0;
        for (int l = 0; l < 8; ++l)
            places.lane[mask][l] = (mask >> l & 1) != 0 ? next++ : std::uint8_t{0};
    }
    return places;
}();

THIMBLE_INLINE void refill(__m256i& window, __m256i& bits, const std::uint16_t*& words) {
    const __m256i most = _mm256_set1_epi32(Code::kWordBits);
    const __m256i few = _mm256_cmpgt_epi32(most, bits);
    const auto mask = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(few)));
    const __m256i next =
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(words)));
    const __m256i place =
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPlaces.lane[mask])));
    const __m256i word = _mm256_and_si256(_mm256_permutevar8x32_epi32(next, place), few);
    window = _mm256_or_si256(window, _mm256_sllv_epi32(word, _mm256_sub_epi32(most, bits)));
    bits = _mm256_add_epi32(bits, _mm256_and_si256(few, most));
    words += __builtin_popcount(mask);
}

THIMBLE_INLINE __m256i bytes_of(const __m256i* lanes) {
    const __m256i low = _mm256_packus_epi32(lanes[0], lanes[1]);
    const __m256i high = _mm256_packus_epi32(lanes[2], lanes[3]);
    return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high),
                                       _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// The next symbol of each stream, its code's length on top.
THIMBLE_INLINE __m256i symbols_of(Lanes& lanes, const __m256i* table) {
    __m256i top[4];
    for (int v = 0; v < 4; ++v) top[v] = _mm256_srli_epi32(lanes.window[v], 32 - Code::kLongest);
    const __m256i at = bytes_of(top);
    __m256i entry = _mm256_setzero_si256();
    for (int t = 0; t < Code::kTable / 16; ++t) {
        // Of other parts of the table the bytes have their top bit set, and find zero.
        const __m256i own = _mm256_xor_si256(at, _mm256_set1_epi8(static_cast<char>(16 * t)));
        const __m256i in = _mm256_adds_epu8(own, _mm256_set1_epi8(0x70));
        entry = _mm256_or_si256(entry, _mm256_shuffle_epi8(table[t], in));
    }
    const __m256i lengths = _mm256_and_si256(_mm256_srli_epi16(entry, 4), _mm256_set1_epi8(15));
    const __m128i half[2] = {_mm256_castsi256_si128(lengths), _mm256_extracti128_si256(lengths, 1)};
    for (int v = 0; v < 4; ++v) {
        const __m128i eight = v % 2 == 0 ? half[v / 2] : _mm_srli_si128(half[v / 2], 8);
        const __m256i length = _mm256_cvtepu8_epi32(eight);
        lanes.window[v] = _mm256_sllv_epi32(lanes.window[v], length);
        lanes.bits[v] = _mm256_sub_epi32(lanes.bits[v], length);
    }
    return entry;
}

// 32 numbers. Escapes are few.
THIMBLE_INLINE void merge(__m256i symbols, __m256i of_symbol, const std::uint8_t*& escapes,
                          const std::uint8_t* rest, std::uint16_t* out) {
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i symbol = _mm256_and_si256(symbols, low);
    __m256i e = _mm256_shuffle_epi8(of_symbol, symbol);
    auto escaped = static_cast<unsigned>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(symbol, low)));
    if (escaped != 0) {
        alignas(32) std::uint8_t byte[32];
        _mm256_store_si256(reinterpret_cast<__m256i*>(byte), e);
        for (; escaped != 0; escaped &= escaped - 1) byte[__builtin_ctz(escaped)] = *escapes++;
        e = _mm256_load_si256(reinterpret_cast<const __m256i*>(byte));
    }
    const __m256i sign = _mm256_set1_epi8(static_cast<char>(0x80));
    const __m256i r = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rest));
    const __m256i high = _mm256_or_si256(_mm256_and_si256(r, sign),
                                         _mm256_andnot_si256(sign, _mm256_srli_epi16(e, 1)));
    const __m256i below = _mm256_or_si256(_mm256_andnot_si256(sign, r),
                                          _mm256_and_si256(sign, _mm256_slli_epi16(e, 7)));
    const __m256i first = _mm256_unpacklo_epi8(below, high);
    const __m256i second = _mm256_unpackhi_epi8(below, high);
    auto* to = reinterpret_cast<__m256i*>(out);
    _mm256_storeu_si256(to, _mm256_permute2x128_si256(first, second, 0x20));
    _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(first, second, 0x31));
}

// A chunk's next block.
THIMBLE_INLINE void block(Chunk& chunk) {
    const DecodeExponents& p = chunk.p;
    Streams& s = chunk.streams;
    const auto sixteen = [](const std::uint8_t* from) {
        return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    };
    __m256i table[Code::kTable / 16];
    for (int t = 0; t < Code::kTable / 16; ++t) table[t] = sixteen(p.table + 16 * t);
    const __m256i of_symbol = sixteen(p.exponents);
    Lanes lanes;
    for (int v = 0; v < 4; ++v) {
        lanes.window[v] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(s.window + 8 * v));
        lanes.bits[v] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(s.bits + 8 * v));
    }
    const std::uint16_t* words = chunk.words.at;
    const std::uint8_t* escapes = chunk.escapes;
    for (std::int64_t k = chunk.at; k < chunk.at + kBlock; k += Code::kStep) {
        for (int v = 0; v < 4; ++v) refill(lanes.window[v], lanes.bits[v], words);
        for (int half = 0; half < Code::kStep; half += Code::kStreams)
            merge(symbols_of(lanes, table), of_symbol, escapes, p.rest + k + half,
                  p.out + k + half);
    }
    chunk.words.at = words, chunk.escapes = escapes, chunk.at += kBlock;
    for (int v = 0; v < 4; ++v) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(s.window + 8 * v), lanes.window[v]);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(s.bits + 8 * v), lanes.bits[v]);
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

// What is left of a chunk.
THIMBLE_INLINE void finish(Chunk& c) {
    const DecodeExponents& p = c.p;
    alignas(64) std::uint8_t symbols[kBlock];
    while (c.sound && c.at < p.count) {
#if defined(THIMBLE_ISA_avx512) || defined(THIMBLE_ISA_avx2)
        if (c.is_fast()) {
            block(c);
            continue;
        }
#endif
        const std::int64_t n = p.count - c.at < kBlock ? p.count - c.at : kBlock;
        const bool room = c.has_room();
        for (std::int64_t i = 0; i < n; i += Code::kStep) {
            if (room) {
                step<true>(c.streams, c.words, p.table, symbols + i);
            } else {
                step<false>(c.streams, c.words, p.table, symbols + i);
            }
        }
        merge(symbols, n, p.exponents, c.escapes, c.escapes_end, p.rest + c.at, p.out + c.at);
        c.at += n;
    }
    *p.sound =
        c.sound && c.words.at == p.words_end && c.words.missed == 0 && c.escapes == c.escapes_end;
}

}  // namespace

void decode_exponents(const DecodeExponents& p) {
    Chunk chunk(p);
    if (p.with != nullptr) {
        Chunk with(*p.with);
#if defined(THIMBLE_ISA_avx512)
        while (chunk.is_fast() && with.is_fast()) block(chunk, with);
#endif
        finish(with);
    }
    finish(chunk);
}

}  // namespace thimble::cpu::THIMBLE_ISA
