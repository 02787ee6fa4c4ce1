// SPDX-License-Identifier: Apache-2.0
// Scores of stored vectors (kernels/layout/vector_code.h) against queries. A number is decoded in
// registers and serves several queries; four rows at a time make four chains of sums and four
// streams of memory. A score is one sum over k in lanes: its bits do not depend on the batch.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

using Bytes = const std::uint8_t*;
constexpr int kRows = 4;
constexpr int kQueries = kLanes == 16 ? 4 : 2;  // as the registers allow
static_assert(kScanPadding % kLanes == 0);

#if defined(THIMBLE_ISA_avx2) || defined(THIMBLE_ISA_avx512)
// kLanes bytes as 16-bit numbers.
#if defined(THIMBLE_ISA_avx512)
using Halves = __m256i;
THIMBLE_INLINE Halves widen(Bytes p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
THIMBLE_INLINE Halves shift_up(Halves v, int n) { return _mm256_slli_epi16(v, n); }
THIMBLE_INLINE Halves keep(Halves v, int mask) {
    return _mm256_and_si256(v, _mm256_set1_epi16(static_cast<std::int16_t>(mask)));
}
THIMBLE_INLINE vf from_halves(Halves v) { return _mm512_cvtph_ps(v); }
#else
using Halves = __m128i;
THIMBLE_INLINE Halves widen(Bytes p) {
    return _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
THIMBLE_INLINE Halves shift_up(Halves v, int n) { return _mm_slli_epi16(v, n); }
THIMBLE_INLINE Halves keep(Halves v, int mask) {
    return _mm_and_si128(v, _mm_set1_epi16(static_cast<std::int16_t>(mask)));
}
THIMBLE_INLINE vf from_halves(Halves v) { return _mm256_cvtph_ps(v); }
#endif
// The same bits as whole numbers of 32 bits.
THIMBLE_INLINE vi widen_u8(__m128i bytes) {
#if defined(THIMBLE_ISA_avx512)
    return reinterpret_cast<vi>(_mm512_cvtepu8_epi32(bytes));
#else
    return reinterpret_cast<vi>(_mm256_cvtepu8_epi32(bytes));
#endif
}
THIMBLE_INLINE vf to_float(vi v) {
#if defined(THIMBLE_ISA_avx512)
    return _mm512_cvtepi32_ps(reinterpret_cast<__m512i>(v));
#else
    return _mm256_cvtepi32_ps(reinterpret_cast<__m256i>(v));
#endif
}
THIMBLE_INLINE vf load_u8(Bytes p) {
#if defined(THIMBLE_ISA_avx512)
    return to_float(widen_u8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
    return to_float(widen_u8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#endif
}
THIMBLE_INLINE vf load_e2m1(Bytes p) {
#if defined(THIMBLE_ISA_avx512)
    const __m128i two = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
#else
    const __m128i two = _mm_loadu_si32(p);
#endif
    const __m128i low = _mm_set1_epi8(15);
    const __m128i codes =
        _mm_unpacklo_epi8(_mm_and_si128(two, low), _mm_and_si128(_mm_srli_epi16(two, 4), low));
    const vi code = widen_u8(codes);
#if defined(THIMBLE_ISA_avx512)
    const __m512 values =
        _mm512_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6);
    return _mm512_permutexvar_ps(reinterpret_cast<__m512i>(code), values);
#else
    const __m256 values = _mm256_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6);
    const vi magnitude =
        reinterpret_cast<vi>(_mm256_permutevar8x32_ps(values, reinterpret_cast<__m256i>(code)));
    return reinterpret_cast<vf>(magnitude | (code & 8) << 28);
#endif
}
THIMBLE_INLINE vf load_signs(Bytes p) {
#if defined(THIMBLE_ISA_avx512)
    std::uint16_t bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    const __m512i of_lane = _mm512_setr_epi32(0x80, 0x40, 0x20, 0x10, 8, 4, 2, 1, 0x8000, 0x4000,
                                              0x2000, 0x1000, 0x800, 0x400, 0x200, 0x100);
    const __mmask16 positive = _mm512_test_epi32_mask(_mm512_set1_epi32(bits), of_lane);
    return _mm512_mask_blend_ps(positive, _mm512_set1_ps(-1), _mm512_set1_ps(1));
#else
    const vi of_lane = {0x80, 0x40, 0x20, 0x10, 8, 4, 2, 1};
    const vi bits = static_cast<std::int32_t>(*p) - vi{};
    return (bits & of_lane) != 0 ? broadcast(1) : broadcast(-1);
#endif
}
#endif

// Numbers k to k + kLanes of a row, over factor_of(code).
template <VectorCode code>
THIMBLE_INLINE vf load_codes(Bytes row, std::int64_t k) {
    if constexpr (code == VectorCode::kF32)
        return *reinterpret_cast<const vf_unaligned*>(row + 4 * k);
#if defined(THIMBLE_ISA_avx2) || defined(THIMBLE_ISA_avx512)
    else if constexpr (code == VectorCode::kF16)
        return load_f16(reinterpret_cast<const std::uint16_t*>(row + 2 * k));
    else if constexpr (code == VectorCode::kE4m3)  // the sign is bit 15, bit 14 its copy
        return from_halves(keep(shift_up(widen(row + k), 7), 0xbfff));
    else if constexpr (code == VectorCode::kE5m2)
        return from_halves(shift_up(widen(row + k), 8));
    else if constexpr (code == VectorCode::kU8)
        return load_u8(row + k);
    else if constexpr (code == VectorCode::kE2m1)
        return load_e2m1(row + k / 2);
    else
        return load_signs(row + k / 8);
#else
    vf v;
    for (int i = 0; i < kLanes; ++i) v[i] = vector_value(code, row, k + i);
    return v;
#endif
}
// What is left of the sum: e4m3 as a half is 2^-8 times the number.
template <VectorCode code>
THIMBLE_INLINE constexpr float factor_of() {
    return code == VectorCode::kE4m3 && kLanes > 4 ? 256.0f : 1.0f;
}

// The sums of row r and query i, still in lanes, to sums[i * rows + r].
template <VectorCode code, int rows, int queries>
THIMBLE_INLINE void tile(const ScanCodes& p, std::int64_t row, std::int64_t query, vf* sums) {
    const std::int64_t row_bytes = vector_bytes(code, p.dims);
    const std::int64_t whole = p.dims / kScanPadding * kScanPadding;
    Bytes of_row[rows];
    const float* q[queries];
    for (int r = 0; r < rows; ++r) of_row[r] = p.codes + (row + r) * row_bytes;
    for (int i = 0; i < queries; ++i) q[i] = p.queries + (query + i) * p.query_stride;
    vf sum[rows][queries] = {};
    const auto add = [&](const Bytes* from, std::int64_t k, std::int64_t at)
        __attribute__((always_inline)) {
        vf w[rows];
        for (int r = 0; r < rows; ++r) w[r] = load_codes<code>(from[r], k);
        for (int i = 0; i < queries; ++i) {
            const vf x = load(q[i] + at);
            for (int r = 0; r < rows; ++r) sum[r][i] = fma(w[r], x, sum[r][i]);
        }
    };
    for (std::int64_t k = 0; k < whole; k += kLanes) {
        // Rows side by side do not look like a stream: ask for the next ones.
        if (rows == kRows && queries == 1 && k % (512 / bits_of(code)) == 0) {
            for (int r = 0; r < rows; ++r)
                __builtin_prefetch(of_row[r] + rows * row_bytes + k * bits_of(code) / 8);
        }
        add(of_row, k, k);
    }
    if (whole < p.dims) {
        // The last numbers, in memory that may be read as if there were kScanPadding of them.
        std::uint8_t last[rows][4 * kScanPadding] = {};
        Bytes from[rows];
        const std::int64_t done = whole * bits_of(code) / 8;
        for (int r = 0; r < rows; ++r) {
            __builtin_memcpy(last[r], of_row[r] + done, static_cast<std::size_t>(row_bytes - done));
            from[r] = last[r];
        }
        for (std::int64_t k = 0; whole + k < p.dims; k += kLanes) add(from, k, whole + k);
    }
    for (int i = 0; i < queries; ++i) {
        for (int r = 0; r < rows; ++r) sums[i * rows + r] = sum[r][i];
    }
}

// Scores of count sums, a multiple of kLanes: as sum_lanes would have them, bit for bit.
template <VectorCode code, int count>
THIMBLE_INLINE void totals(const vf* sums, float* out) {
    static_assert(count % kLanes == 0);
    for (int first = 0; first < count; first += kLanes) {
        vf v[kLanes];
        for (int i = 0; i < kLanes; ++i) v[i] = sums[first + i];
        store(out + first, sum_each(v) * factor_of<code>());
    }
}

template <VectorCode code, int queries>
THIMBLE_INLINE void last_rows(const ScanCodes& p, std::int64_t row, std::int64_t query) {
    for (; row < p.rows; ++row) {
        vf sums[queries];
        tile<code, 1, queries>(p, row, query, sums);
        for (int i = 0; i < queries; ++i)
            p.scores[(query + i) * p.score_stride + row] = sum_lanes(sums[i]) * factor_of<code>();
    }
}

template <VectorCode code>
THIMBLE_INLINE void one_query(const ScanCodes& p, std::int64_t query) {
    std::int64_t row = 0;
    for (; row + kLanes <= p.rows; row += kLanes) {
        vf sums[kLanes];
        for (int r = 0; r < kLanes; r += kRows) tile<code, kRows, 1>(p, row + r, query, sums + r);
        totals<code, kLanes>(sums, p.scores + query * p.score_stride + row);
    }
    last_rows<code, 1>(p, row, query);
}

template <VectorCode code>
THIMBLE_INLINE void several_queries(const ScanCodes& p, std::int64_t query) {
    std::int64_t row = 0;
    for (; row + kRows <= p.rows; row += kRows) {
        vf sums[kQueries * kRows];
        float scores[kQueries * kRows];
        tile<code, kRows, kQueries>(p, row, query, sums);
        totals<code, kQueries * kRows>(sums, scores);
        for (int i = 0; i < kQueries; ++i) {
            __builtin_memcpy(p.scores + (query + i) * p.score_stride + row, scores + i * kRows,
                             kRows * sizeof(float));
        }
    }
    last_rows<code, kQueries>(p, row, query);
}

template <VectorCode code>
void scan(const ScanCodes& p) {
    std::int64_t query = 0;
    for (; query + kQueries <= p.n_queries; query += kQueries) several_queries<code>(p, query);
    for (; query < p.n_queries; ++query) one_query<code>(p, query);
}

}  // namespace

void scan_codes(const ScanCodes& p) {
    switch (p.code) {
        case VectorCode::kF32:
            return scan<VectorCode::kF32>(p);
        case VectorCode::kF16:
            return scan<VectorCode::kF16>(p);
        case VectorCode::kE4m3:
            return scan<VectorCode::kE4m3>(p);
        case VectorCode::kE5m2:
            return scan<VectorCode::kE5m2>(p);
        case VectorCode::kU8:
            return scan<VectorCode::kU8>(p);
        case VectorCode::kE2m1:
            return scan<VectorCode::kE2m1>(p);
        case VectorCode::kSign:
            return scan<VectorCode::kSign>(p);
    }
}

void scan_signs(const ScanSigns& p) {
    const std::int64_t bytes = vector_bytes(VectorCode::kSign, p.dims), whole = bytes / 8;
    const auto tail = static_cast<std::size_t>(bytes % 8);
    for (std::int64_t q = 0; q < p.n_queries; ++q) {
        Bytes query = p.queries + q * bytes;
        for (std::int64_t r = 0; r < p.rows; ++r) {
            Bytes row = p.codes + r * bytes;
            std::int64_t differ = 0;
            std::uint64_t a = 0, b = 0;
            for (std::int64_t w = 0; w < whole; ++w) {
                __builtin_memcpy(&a, query + 8 * w, sizeof a);
                __builtin_memcpy(&b, row + 8 * w, sizeof b);
                differ += __builtin_popcountll(a ^ b);
            }
            if (tail != 0) {
                a = 0, b = 0;
                __builtin_memcpy(&a, query + 8 * whole, tail);
                __builtin_memcpy(&b, row + 8 * whole, tail);
                differ += __builtin_popcountll(a ^ b);
            }
            p.scores[q * p.score_stride + r] = static_cast<float>(p.dims - 2 * differ);
        }
    }
}

}  // namespace thimble::cpu::THIMBLE_ISA
