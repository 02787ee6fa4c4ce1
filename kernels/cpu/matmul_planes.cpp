// SPDX-License-Identifier: Apache-2.0
// Matmul of bit planes ("Accelerating Arbitrary-Precision LLMs with Bipolar-INT", AP-LLM, 2024,
// equation 5): with all bits +1 or -1, two words of 32 have the product 32 - 2 popcount(w ^ x), and
// bits i and j count 2^(i + j) times. A stored row's words are taken 16 at a time, so that a lane
// is one plane of one tile of 32 columns.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"
#include "kernels/layout/bipolar.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

constexpr int kWords = static_cast<int>(kPlaneWords);  // lanes, and tiles of a step
constexpr int kMostBits = 8;

// Of lane l of a row's vector `step`, 0 <= step < bits: its tile among the sixteen, and 2^plane.
struct Lane {
    std::int32_t tile[kMostBits][kWords];
    float weight[kMostBits][kWords];
    int shift;  // a group has 2^shift tiles; -1: another number
};
Lane lanes_of(int bits, std::int64_t group) {
    Lane lane{};
    const auto tiles = static_cast<std::uint64_t>(group / 32);
    lane.shift = (tiles & (tiles - 1)) == 0 ? __builtin_ctzll(tiles) : -1;
    for (int step = 0; step < bits; ++step) {
        for (int l = 0; l < kWords; ++l) {
            lane.tile[step][l] = (kWords * step + l) / bits;
            lane.weight[step][l] = static_cast<float>(1 << (kWords * step + l) % bits);
        }
    }
    return lane;
}

// The scales of sixteen tiles from `first` on, 0 past the row.
THIMBLE_INLINE void tile_scales(const MatmulPlanes& p, const std::uint16_t* scales,
                                std::int64_t first, float* out) {
    const std::int64_t tiles = p.cols / 32, each = p.group / 32;
    std::int64_t group = first / each, in_group = first % each;
    float scale = f16_to_f32(scales[group]);
    for (std::int64_t i = 0; i < kWords; ++i) {
        out[i] = first + i < tiles ? scale : 0.0f;
        if (++in_group < each || first + i + 1 >= tiles) continue;
        in_group = 0;
        scale = f16_to_f32(scales[++group]);
    }
}

#if defined(THIMBLE_ISA_avx512)
// The same where groups are of 2^shift tiles.
THIMBLE_INLINE __m512 tile_scales(const MatmulPlanes& p, const std::uint16_t* scales,
                                  std::int64_t first, int shift) {
    const std::int64_t tiles = p.cols / 32, base = first >> shift, left = tiles - first;
    const std::int64_t groups = ((tiles - 1) >> shift) + 1 - base;
    const auto there = static_cast<__mmask16>(groups < kWords ? (1u << groups) - 1 : 0xffffu);
    const auto mask = static_cast<__mmask16>(left < kWords ? (1u << left) - 1 : 0xffffu);
    const __m256i halves = _mm256_maskz_loadu_epi16(there, scales + base);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i tile = _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int>(first)));
    const __m512i group = _mm512_sub_epi32(_mm512_srli_epi32(tile, static_cast<unsigned>(shift)),
                                           _mm512_set1_epi32(static_cast<int>(base)));
    const __m256i index = _mm512_cvtepi32_epi16(group);
    return _mm512_maskz_cvtph_ps(mask, _mm256_permutexvar_epi16(index, halves));
}

// Lanes' sums of scale * 2^i * (32 (2^x_bits - 1) - 2 * sum of 2^j popcount).
THIMBLE_INLINE __m512 add_step(const MatmulPlanes& p, __m512i words, __m512i tiles, __m512 scale,
                               const std::uint32_t* x, std::int64_t stride, __m512 sum) {
    __m512i differ = _mm512_setzero_si512();
    for (int j = p.x_bits - 1; j >= 0; --j) {
        const __m512i plane = _mm512_permutexvar_epi32(tiles, _mm512_loadu_si512(x + j * stride));
        const __m512i count = _mm512_popcnt_epi32(_mm512_xor_si512(words, plane));
        differ = _mm512_add_epi32(_mm512_add_epi32(differ, differ), count);
    }
    const __m512i all = _mm512_set1_epi32(32 * ((1 << p.x_bits) - 1));
    const __m512i dots = _mm512_sub_epi32(all, _mm512_add_epi32(differ, differ));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, sum);
}

template <int T>
THIMBLE_INLINE void run_row(const MatmulPlanes& p, const Lane& lane, const std::uint32_t* words,
                            const std::uint16_t* scales, std::int64_t token, float* out) {
    const std::int64_t tiles = p.cols / 32, stride = plane_words(p.cols);
    __m512 sums[T];
    for (int t = 0; t < T; ++t) sums[t] = _mm512_setzero_ps();
    for (std::int64_t first = 0; first < tiles; first += kWords) {
        __m512 tile_scale;
        if (lane.shift >= 0) {
            tile_scale = tile_scales(p, scales, first, lane.shift);
        } else {
            float of_tile[kWords];
            tile_scales(p, scales, first, of_tile);
            tile_scale = _mm512_loadu_ps(of_tile);
        }
        const std::int64_t left = (tiles - first) * p.bits;  // words of this row
        for (int step = 0; step < p.bits && kWords * step < left; ++step) {
            const std::int64_t n = left - kWords * step;
            const auto mask = static_cast<__mmask16>(n < kWords ? (1u << n) - 1 : 0xffffu);
            const __m512i w =
                _mm512_maskz_loadu_epi32(mask, words + first * p.bits + kWords * step);
            const __m512i index = _mm512_loadu_si512(lane.tile[step]);
            const __m512 scale = _mm512_maskz_mul_ps(mask, _mm512_permutexvar_ps(index, tile_scale),
                                                     _mm512_loadu_ps(lane.weight[step]));
            for (int t = 0; t < T; ++t)
                sums[t] = add_step(p, w, index, scale,
                                   p.x + (token + t) * p.x_bits * stride + first, stride, sums[t]);
        }
    }
    for (int t = 0; t < T; ++t) out[t] = _mm512_reduce_add_ps(sums[t]);
}
#else
template <int T>
THIMBLE_INLINE void run_row(const MatmulPlanes& p, const Lane&, const std::uint32_t* words,
                            const std::uint16_t* scales, std::int64_t token, float* out) {
    const std::int64_t tiles = p.cols / 32, stride = plane_words(p.cols);
    const std::int32_t all = 32 * ((1 << p.bits) - 1) * ((1 << p.x_bits) - 1);
    for (int t = 0; t < T; ++t) out[t] = 0;
    for (std::int64_t first = 0; first < tiles; first += kWords) {
        float of_tile[kWords];
        tile_scales(p, scales, first, of_tile);
        const std::int64_t end = tiles - first < kWords ? tiles - first : kWords;
        for (std::int64_t tile = 0; tile < end; ++tile) {
            const std::uint32_t* w = words + (first + tile) * p.bits;
            for (int t = 0; t < T; ++t) {
                const std::uint32_t* x = p.x + (token + t) * p.x_bits * stride + first + tile;
                std::int32_t differ = 0;
                for (int i = 0; i < p.bits; ++i) {
                    for (int j = 0; j < p.x_bits; ++j)
                        differ += __builtin_popcount(w[i] ^ x[j * stride]) << (i + j);
                }
                out[t] = fma(static_cast<float>(all - 2 * differ), of_tile[tile], out[t]);
            }
        }
    }
}
#endif

template <int T>
THIMBLE_INLINE void run_tokens(const MatmulPlanes& p, const Lane& lane, std::int64_t token) {
    for (std::int64_t r = 0; r < p.rows; ++r) {
        const auto at = static_cast<std::size_t>(r);
        float sums[T];
        run_row<T>(p, lane, reinterpret_cast<const std::uint32_t*>(p.words + at * p.word_bytes),
                   reinterpret_cast<const std::uint16_t*>(p.scales + at * p.scale_bytes), token,
                   sums);
        for (int t = 0; t < T; ++t) {
            float& out = p.out[(token + t) * p.out_stride + r];
            float y = sums[t] * p.x_scales[token + t];
            if (p.bias != nullptr) y += p.bias[r];
            out = p.accumulate ? out + y : y;
        }
    }
}

// In the order of layout/bit_planes.h.
float sum_of_magnitudes(const EncodePlanes& p) {
    float sums[kPlaneSums] = {}, total = 0;
    for (std::int64_t first = 0; first < p.cols; first += kPlaneSums) {
        const std::int64_t left = p.cols - first;
        const int n = left < kPlaneSums ? static_cast<int>(left) : kPlaneSums;
        for (int i = 0; i < n; ++i) sums[i] += __builtin_fabsf(p.x[first + i]);
    }
    for (int first = 0; first < kPlaneSums; first += 32) {
        for (int half = 16; half > 0; half /= 2) {
            for (int i = first; i < first + half; ++i) sums[i] += sums[i + half];
        }
        total += sums[first];
    }
    return total;
}

}  // namespace

void matmul_planes(const MatmulPlanes& p) {
    const Lane lane = lanes_of(p.bits, p.group);
    std::int64_t t = 0;
    for (; t + 4 <= p.tokens; t += 4) run_tokens<4>(p, lane, t);
    for (; t < p.tokens; ++t) run_tokens<1>(p, lane, t);
}

// One bit: the sign, scaled by the mean magnitude. A NaN or infinity makes the scale NaN.
void encode_planes(const EncodePlanes& p) {
    const std::int64_t stride = plane_words(p.cols);
    const auto most = static_cast<float>((1 << p.bits) - 1);
    float peak = 0, bad = 0;
    for (std::int64_t k = 0; k < p.cols; ++k) {
        const float size = __builtin_fabsf(p.x[k]);
        peak = size > peak ? size : peak;
        bad += p.x[k] * 0.0f;
    }
    const float scale =
        p.bits == 1 ? sum_of_magnitudes(p) / static_cast<float>(p.cols) : peak / most;
    *p.scale = scale + bad;
    const float inverse = scale > 1e-30f ? 0.5f / scale : 0.0f;
    for (std::int64_t w = 0; w < stride; ++w) {
        std::uint32_t words[kMostBits] = {};
        for (std::int64_t i = 0; i < 32 && 32 * w + i < p.cols; ++i) {
            const float x = p.x[32 * w + i];
            float u = p.bits == 1 ? (x >= 0 ? 1.0f : 0.0f) : x * inverse + 0.5f * most;
            u = u > 0 ? (u < most ? u : most) : 0.0f;
            const auto code = static_cast<std::uint32_t>(__builtin_rintf(u));
            for (int j = 0; j < p.bits; ++j) words[j] |= (code >> j & 1u) << i;
        }
        for (int j = 0; j < p.bits; ++j) p.planes[j * stride + w] = words[j];
    }
}

}  // namespace thimble::cpu::THIMBLE_ISA
