// SPDX-License-Identifier: Apache-2.0
// Matmul of sparse weights that are woven together (layout/twins_of_sparse.h): the kept weights of
// two or four columns of sixteen rows are spread to their lanes and multiplied as those of dense
// interleaved layouts are, column after column. A lane without a weight adds 0 times its input, so
// finite inputs give the bits that a dense matrix with zeros gives.
#include "kernels/cpu/groups.h"
#include "kernels/cpu/kernels.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

constexpr int kVectors = kGroupRows / kLanes;  // that hold a float of each of sixteen rows

#if defined(THIMBLE_ISA_avx2)
// For each set of lanes, the places in a run of values from which they are filled; lanes that are
// not in the set get 0. Eight bytes, or eight halves.
struct Spread {
    std::uint8_t bytes[256][8], halves[256][16];
};
constexpr Spread make_spread() {
    Spread s{};
    for (int set = 0; set < 256; ++set) {
        int n = 0;
        for (int i = 0; i < 8; ++i) {
            const bool is_in = (set >> i & 1) != 0;
            s.bytes[set][i] = static_cast<std::uint8_t>(is_in ? n : 0x80);
            s.halves[set][2 * i] = static_cast<std::uint8_t>(is_in ? 2 * n : 0x80);
            s.halves[set][2 * i + 1] = static_cast<std::uint8_t>(is_in ? 2 * n + 1 : 0x80);
            if (is_in) ++n;
        }
    }
    return s;
}
constexpr Spread kSpread = make_spread();
#endif

// Words of two columns, the first in the lower half: of sixteen rows in turn. Moves `at` on.
THIMBLE_INLINE void spread_halves(std::uint32_t mask, const std::byte*& at, vu (&words)[kVectors]) {
#if defined(THIMBLE_ISA_avx512)
    // The instruction waits for the register that it writes, even where it keeps nothing of it: a
    // new zero, which the compiler must not fold into it, spares it that.
    __m512i none = _mm512_setzero_si512();
    asm("" : "+v"(none));
    words[0] = reinterpret_cast<vu>(_mm512_mask_expand_epi16(none, mask, load_bytes<__m512i>(at)));
    at += 2 * static_cast<std::size_t>(__builtin_popcount(mask));
#elif defined(THIMBLE_ISA_avx2)
    for (int v = 0; v < kVectors; ++v) {
        __m128i half[2];
        for (int h = 0; h < 2; ++h) {
            const std::uint32_t set = mask >> (16 * v + 8 * h) & 255;
            half[h] =
                _mm_shuffle_epi8(load_bytes<__m128i>(at), load_bytes<__m128i>(kSpread.halves[set]));
            at += 2 * __builtin_popcount(set);
        }
        words[v] = reinterpret_cast<vu>(_mm256_set_m128i(half[1], half[0]));
    }
#else
    std::uint16_t halves[2 * kGroupRows] = {};
    for (; mask != 0; mask &= mask - 1, at += 2)
        __builtin_memcpy(halves + __builtin_ctz(mask), at, 2);
    __builtin_memcpy(words, halves, sizeof halves);
#endif
}

#if defined(THIMBLE_ISA_avx512)
// The 64 codes of 4 bits from the n-th on, a byte each.
THIMBLE_INLINE __m512i load_nibbles_from(const std::byte* values, std::int64_t n) {
    // Every byte with the one after it, moved down by a code where n is odd.
    const std::byte* at = values + n / 2;
    const __m512i low = _mm512_cvtepu8_epi16(load_bytes<__m256i>(at));
    const __m512i high = _mm512_cvtepu8_epi16(load_bytes<__m256i>(at + 1));
    const __m512i both = _mm512_or_si512(low, _mm512_slli_epi16(high, 8));
    const __m512i two = _mm512_srl_epi16(both, _mm_cvtsi32_si128(static_cast<int>(4 * (n % 2))));
    return _mm512_or_si512(_mm512_and_si512(two, _mm512_set1_epi16(0x000f)),
                           _mm512_and_si512(_mm512_slli_epi16(two, 4), _mm512_set1_epi16(0x0f00)));
}
#else
THIMBLE_INLINE void load_nibbles_from(const std::byte* values, std::int64_t n,
                                      std::uint8_t (&out)[64]) {
    const std::byte* at = values + n / 2;
#if defined(THIMBLE_ISA_avx2)
    const __m128i odd = _mm_cvtsi32_si128(static_cast<int>(4 * (n % 2)));
    for (int half = 0; half < 2; ++half, at += 16) {
        const __m256i low = _mm256_cvtepu8_epi16(load_bytes<__m128i>(at));
        const __m256i high = _mm256_cvtepu8_epi16(load_bytes<__m128i>(at + 1));
        const __m256i two = _mm256_srl_epi16(_mm256_or_si256(low, _mm256_slli_epi16(high, 8)), odd);
        const __m256i codes =
            _mm256_or_si256(_mm256_and_si256(two, _mm256_set1_epi16(0x000f)),
                            _mm256_and_si256(_mm256_slli_epi16(two, 4), _mm256_set1_epi16(0x0f00)));
        __builtin_memcpy(out + 32 * half, &codes, sizeof codes);
    }
#else
    for (int i = 0; i < 64; ++i)
        out[i] = static_cast<std::uint8_t>(
            static_cast<int>(at[(n % 2 + i) / 2]) >> (4 * ((n + i) % 2)) & 15);
#endif
}

// Bytes of four columns of sixteen rows; `absent` where there is none.
template <int absent>
THIMBLE_INLINE void spread_bytes(std::uint64_t mask, const std::uint8_t* from,
                                 vb (&codes)[kVectors]) {
#if defined(THIMBLE_ISA_avx2)
    for (int v = 0; v < kVectors; ++v) {
        __m128i eight[4];
        for (int i = 0; i < 4; ++i) {
            const std::uint64_t set = mask >> (32 * v + 8 * i) & 255;
            eight[i] = _mm_shuffle_epi8(
                _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)),
                _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kSpread.bytes[set])));
            from += __builtin_popcountll(set);
        }
        const __m256i spread = _mm256_set_m128i(_mm_unpacklo_epi64(eight[2], eight[3]),
                                                _mm_unpacklo_epi64(eight[0], eight[1]));
        const std::uint32_t gone = static_cast<std::uint32_t>(~mask >> 32 * v);
        std::uint8_t gone_bytes[4];
        __builtin_memcpy(gone_bytes, &gone, sizeof gone);
        codes[v] = reinterpret_cast<vb>(spread) | spread_bits<absent>(gone_bytes);
    }
#else
    std::uint8_t bytes[4 * kGroupRows];
    __builtin_memset(bytes, absent, sizeof bytes);
    for (; mask != 0; mask &= mask - 1) bytes[__builtin_ctzll(mask)] = *from++;
    __builtin_memcpy(codes, bytes, sizeof bytes);
#endif
}
#endif

// Codes of four columns of sixteen rows, the n-th the first, offset as they are stored; in lanes
// without a weight the code of zero.
template <int bits>
THIMBLE_INLINE void spread_codes(std::uint64_t mask, const std::byte* values, std::int64_t n,
                                 vb (&codes)[kVectors]) {
    constexpr int kZero = 1 << (bits - 1);
#if defined(THIMBLE_ISA_avx512)
    __m512i from;
    if constexpr (bits == 8)
        from = load_bytes<__m512i>(values + n);
    else
        from = load_nibbles_from(values, n);
    codes[0] = reinterpret_cast<vb>(
        _mm512_mask_expand_epi8(_mm512_set1_epi8(static_cast<char>(kZero)), mask, from));
#else
    if constexpr (bits == 8) {
        spread_bytes<kZero>(mask, reinterpret_cast<const std::uint8_t*>(values) + n, codes);
    } else {
        std::uint8_t bytes[64];
        load_nibbles_from(values, n, bytes);
        spread_bytes<kZero>(mask, bytes, codes);
    }
#endif
}

// A group's stream of kept weights on its way.
template <LayoutId id>
struct Stream {
    const typename Interleaved<id>::Mask* masks;
    const std::uint16_t* scales;
    const std::byte* values;
    std::int64_t n = 0;  // codes taken
};
template <LayoutId id>
THIMBLE_INLINE Stream<id> stream_of(const MatmulGroups& p, std::int64_t row) {
    const std::byte* group = p.weights + static_cast<std::size_t>(row / kGroupRows) * p.group_bytes;
    const SparseGroup parts = SparseGroup::of(p.params, p.cols);
    return {reinterpret_cast<const typename Interleaved<id>::Mask*>(group),
            reinterpret_cast<const std::uint16_t*>(group + parts.masks),
            group + parts.masks + parts.scales};
}

// The halves in the lower 16 bits of each word.
template <ScaleType type>
THIMBLE_INLINE vf floats_of(vu words) {
    if constexpr (type == ScaleType::kBF16) return reinterpret_cast<vf>(words << 16);
    // As bits of a float whose exponent is too small by 112: exact, subnormals included.
    const vf magnitude = reinterpret_cast<vf>((words & 0x7fffu) << 13) * 0x1p112f;
    return reinterpret_cast<vf>(reinterpret_cast<vu>(magnitude) | (words & 0x8000u) << 16);
}
template <ScaleType type>
THIMBLE_INLINE vf floats_above(vu words) {
    if constexpr (type == ScaleType::kBF16) return reinterpret_cast<vf>(words & 0xffff0000u);
    return floats_of<type>(words >> 16);
}

// Float weights: G groups by T tokens.
template <LayoutId id, ScaleType type, int G, int T>
THIMBLE_INLINE void run_halves(const MatmulGroups& p, Stream<id>* groups, std::int64_t token,
                               vf (*sums)[kVectors][T]) {
    const float* x = p.x + token * p.x_stride;
    for (std::int64_t k = 0; k < p.cols; k += 2) {
        for (int g = 0; g < G; ++g) {
            vu words[kVectors];
            spread_halves(groups[g].masks[k / 2], groups[g].values, words);
            for (int v = 0; v < kVectors; ++v) {
                const vf first = floats_of<type>(words[v]), second = floats_above<type>(words[v]);
                for (int t = 0; t < T; ++t) {
                    const float* column = x + t * p.x_stride + k;
                    sums[g][v][t] = fma(first, broadcast(column[0]), sums[g][v][t]);
                    sums[g][v][t] = fma(second, broadcast(column[1]), sums[g][v][t]);
                }
            }
        }
    }
}

// Codes of 32 columns of a group, as codes.h's dot takes them.
template <LayoutId id>
THIMBLE_INLINE void read_woven(Stream<id>& group, std::int64_t first, vb (*codes)[8]) {
    using I = Interleaved<id>;
    for (int g = 0; g < 8; ++g) {
        const std::uint64_t mask = group.masks[first / 4 + g];
        vb spread[kVectors];
        spread_codes<I::kBits>(mask, group.values, group.n, spread);
        group.n += __builtin_popcountll(mask);
        for (int v = 0; v < kVectors; ++v) {
            codes[v][g] = spread[v];
            if constexpr (kSignedBytes && I::kBits == 8) codes[v][g] ^= 128;
        }
    }
}

// Codes, and 8-bit or float input.
template <LayoutId id, bool i8, int G, int T>
THIMBLE_INLINE void run_codes(const MatmulGroups& p, Stream<id>* groups, std::int64_t token,
                              vf (*sums)[kVectors][T]) {
    using I = Interleaved<id>;
    constexpr int kOffset = kSignedBytes && I::kBits == 8 ? 0 : I::kOffset;
    const float* x = p.x + token * p.x_stride;
    for (std::int64_t k = 0; k < p.cols; k += 32) {
        for (int g = 0; g < G; ++g) {
            vb codes[kVectors][8];
            read_woven<id>(groups[g], k, codes);
            const std::uint16_t* scales = groups[g].scales + k / p.params.group * kGroupRows;
            for (int v = 0; v < kVectors; ++v) {
                const vf scale = load_f16(scales + v * kLanes);
                if constexpr (i8) {
                    const I8Block* blocks = p.i8 + token * p.i8_stride + k / 32;
                    for (int t = 0; t < T; ++t) {
                        const I8Block& q = blocks[t * p.i8_stride];
                        const vi dots = dot<I::kBits, 8>(broadcast(kOffset * q.negative_sum),
                                                         codes[v], q.codes);
                        sums[g][v][t] =
                            fma(to_floats(dots), scale * broadcast(q.scale), sums[g][v][t]);
                    }
                } else {
                    for (int c = 0; c < 32; ++c) {
                        const vu top = reinterpret_cast<vu>(codes[v][c / 4]) << (24 - 8 * (c % 4));
                        const vi code = kSignedBytes && I::kBits == 8
                                            ? reinterpret_cast<vi>(top) >> 24
                                            : reinterpret_cast<vi>(top >> 24) - kOffset;
                        const vf w = scale * to_floats(code);
                        for (int t = 0; t < T; ++t)
                            sums[g][v][t] =
                                fma(w, broadcast(x[t * p.x_stride + k + c]), sums[g][v][t]);
                    }
                }
            }
        }
    }
}

enum class Way { kF16, kBF16, kI8, kF32 };  // halves of a type, or codes and 8-bit or float input

template <LayoutId id, Way way, int G, int T>
THIMBLE_INLINE void run_woven(const MatmulGroups& p, std::int64_t row, std::int64_t token) {
    Stream<id> groups[G];
    for (int g = 0; g < G; ++g) groups[g] = stream_of<id>(p, row + g * kGroupRows);
    vf sums[G][kVectors][T] = {};
    if constexpr (way == Way::kF16 || way == Way::kBF16) {
        constexpr ScaleType kType = way == Way::kBF16 ? ScaleType::kBF16 : ScaleType::kF16;
        run_halves<id, kType, G, T>(p, groups, token, sums);
    } else {
        run_codes<id, way == Way::kI8, G, T>(p, groups, token, sums);
    }
    for (int v = 0; v < G * kVectors; ++v) {
        const std::int64_t at = row + v * kLanes;
        const std::int64_t count = p.rows - at < kLanes ? p.rows - at : kLanes;
        for (int t = 0; t < T; ++t) {
            float* out = p.out + (token + t) * p.out_stride + at;
            for (std::int64_t i = 0; i < count; ++i) {
                float y = sums[v / kVectors][v % kVectors][t][i];
                if (p.bias != nullptr) y += p.bias[at + i];
                out[i] = p.accumulate ? out[i] + y : y;
            }
        }
    }
}

template <LayoutId id, Way way, int G, int T>
THIMBLE_INLINE void run_rows_woven(const MatmulGroups& p, std::int64_t token) {
    std::int64_t row = 0;
    for (; row + G * kGroupRows <= p.rows; row += G * kGroupRows)
        run_woven<id, way, G, T>(p, row, token);
    for (; row < p.rows; row += kGroupRows) run_woven<id, way, 1, T>(p, row, token);
}

// One token takes several groups at once, as several streams fill the memory's pipe; of more
// tokens, as many as registers hold sums of.
template <LayoutId id, Way way>
void run_tokens_woven(const MatmulGroups& p) {
    constexpr int kTokens = kLanes == 16 ? 8 : 4, kGroups = kLanes == 16 ? 4 : 1;
    std::int64_t t = 0;
    for (; t + kTokens <= p.tokens; t += kTokens) run_rows_woven<id, way, 1, kTokens>(p, t);
    for (; t + 2 <= p.tokens; t += 2) run_rows_woven<id, way, kGroups, 2>(p, t);
    for (; t < p.tokens; ++t) run_rows_woven<id, way, kGroups, 1>(p, t);
}

template <LayoutId id>
void run_codes_woven(const MatmulGroups& p) {
    p.i8 != nullptr ? run_tokens_woven<id, Way::kI8>(p) : run_tokens_woven<id, Way::kF32>(p);
}

}  // namespace

void matmul_sparse(const MatmulGroups& p) {
    switch (p.layout) {
        case LayoutId::k_sparse8_x16:
            return run_codes_woven<LayoutId::k_sparse8_x16>(p);
        case LayoutId::k_sparse4_x16:
            return run_codes_woven<LayoutId::k_sparse4_x16>(p);
        default:
            p.params.scale == ScaleType::kBF16
                ? run_tokens_woven<LayoutId::k_sparse_x16, Way::kBF16>(p)
                : run_tokens_woven<LayoutId::k_sparse_x16, Way::kF16>(p);
    }
}

}  // namespace thimble::cpu::THIMBLE_ISA
