// SPDX-License-Identifier: Apache-2.0
// Updates of weights by optimizers. Only operations that IEEE 754 rounds exactly, never contracted:
// every level gives the same bits. The plain loops are vectorised by the compiler.
#include "kernels/cpu/codes.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

// 0 below the smallest normal number.
THIMBLE_INLINE float without_subnormals(float x) {
    return __builtin_fabsf(x) < 0x1p-126f ? 0.0f : x;
}

THIMBLE_INLINE void adamw_elements(const AdamwRule& rule, std::int64_t n,
                                   const float* __restrict gradients, float* __restrict weights,
                                   float* __restrict means, float* __restrict squares) {
    for (std::int64_t i = 0; i < n; ++i) {
        const float g = gradients[i] * rule.gradient_scale, w = weights[i];
        const float m = without_subnormals(means[i] + rule.new_mean * (g - means[i]));
        const float v =
            without_subnormals(squares[i] * rule.old_square + rule.new_square * (g * g));
        const float root = __builtin_sqrtf(v) * rule.root_scale + rule.epsilon;
        weights[i] = w - (rule.decay * w + rule.step_size * (m / root));
        means[i] = m;
        squares[i] = v;
    }
}

#if defined(THIMBLE_ISA_avx512)
THIMBLE_INLINE vf look_up(const float* table, vi at) {
    return _mm512_i32gather_ps(reinterpret_cast<__m512i>(at), table, 4);
}
THIMBLE_INLINE vi look_up(const std::int32_t* table, vi at) {
    return reinterpret_cast<vi>(_mm512_i32gather_epi32(reinterpret_cast<__m512i>(at), table, 4));
}
#elif defined(THIMBLE_ISA_avx2)
THIMBLE_INLINE vf look_up(const float* table, vi at) {
    return _mm256_i32gather_ps(table, reinterpret_cast<__m256i>(at), 4);
}
THIMBLE_INLINE vi look_up(const std::int32_t* table, vi at) {
    return reinterpret_cast<vi>(_mm256_i32gather_epi32(table, reinterpret_cast<__m256i>(at), 4));
}
#endif

// The values of codes[0, n).
THIMBLE_INLINE void decode_block(const DynamicMap& map, const std::uint8_t* codes, float peak,
                                 std::int64_t n, float* __restrict out) {
    std::int64_t i = 0;
#if !defined(THIMBLE_ISA_portable)
    for (; i + kLanes <= n; i += kLanes)
        store(out + i, look_up(map.values, load_u8_whole(codes + i)) * peak);
#endif
    for (; i < n; ++i) out[i] = map.values[codes[i]] * peak;
}

// Codes of x[0, n) and the peak that belongs to them.
THIMBLE_INLINE void encode_block(const DynamicMap& map, const float* __restrict x, std::int64_t n,
                                 std::uint8_t* __restrict codes, float* peak_out) {
    // As whole numbers, which compare as the magnitudes do, in any order. NaN is the largest.
    std::uint32_t bits = 0;
    for (std::int64_t i = 0; i < n; ++i) {
        const std::uint32_t magnitude = float_to_bits(x[i]) & 0x7fffffffu;
        bits = bits > magnitude ? bits : magnitude;
    }
    const float peak = bits_to_float(bits);
    *peak_out = peak;
    if (peak == 0) {  // as a state that is still fresh
        for (std::int64_t i = 0; i < n; ++i) codes[i] = 0;
        return;
    }
    std::int64_t i = 0;
#if !defined(THIMBLE_ISA_portable)
    // map.encode, lane by lane.
    typedef std::uint8_t code_bytes __attribute__((vector_size(kLanes)));
    for (; i + kLanes <= n; i += kLanes) {
        const vf share = load(x + i) / peak;
        const vi share_bits = reinterpret_cast<vi>(share);
        vi at = (share_bits >> 16 & 0x7fff) - DynamicMap::kBelow;
        at = at < 0 ? vi{} : at;
        at = at < DynamicMap::kCells ? at : broadcast(DynamicMap::kCells - 1);
        const vi cell = look_up(map.cells, share_bits < 0 ? at + DynamicMap::kCells : at);
        const vi other = (share_bits & 0xffff) > (cell & 0xffff) ? cell >> 24 : vi{};
        const vi code = share == 0 ? broadcast(map.code_of_zero) : (cell >> 16) + other;
        const code_bytes narrow = __builtin_convertvector(code, code_bytes);
        __builtin_memcpy(codes + i, &narrow, sizeof narrow);
    }
#endif
    for (; i < n; ++i) codes[i] = map.encode(x[i] / peak);
}

}  // namespace

void adamw(const AdamwRange& range) {
    adamw_elements(range.rule, range.count, range.gradients, range.weights, range.m, range.v);
}

void adamw_blocks(const AdamwBlocks& blocks) {
    const DynamicMap &m_map = *blocks.m_map, &v_map = *blocks.v_map;
    float m[kMostBlockElements], v[kMostBlockElements];
    for (std::int64_t b = 0, first = 0; first < blocks.count; ++b, first += blocks.block_elements) {
        const std::int64_t left = blocks.count - first;
        const std::int64_t n = left < blocks.block_elements ? left : blocks.block_elements;
        std::uint8_t *m_codes = blocks.m_codes + first, *v_codes = blocks.v_codes + first;
        decode_block(m_map, m_codes, blocks.m_peaks[b], n, m);
        decode_block(v_map, v_codes, blocks.v_peaks[b], n, v);
        adamw_elements(blocks.rule, n, blocks.gradients + first, blocks.weights + first, m, v);
        encode_block(m_map, m, n, m_codes, blocks.m_peaks + b);
        encode_block(v_map, v, n, v_codes, blocks.v_peaks + b);
    }
}

void sgd(const SgdRange& range) {
    const float scale = range.gradient_scale, most = range.most, decay = range.decay;
    const float rate = range.learning_rate, momentum = range.momentum;
    float* __restrict weights = range.weights;
    const float* __restrict gradients = range.gradients;
    float* __restrict velocity = range.velocity;
    const auto held = [=](std::int64_t i) __attribute__((always_inline)) {
        const float g = gradients[i] * scale;
        const float below = g > most ? most : g;
        return (below < -most ? -most : below) + decay * weights[i];
    };
    if (velocity == nullptr) {
        for (std::int64_t i = 0; i < range.count; ++i) weights[i] -= rate * held(i);
        return;
    }
    const float ahead = range.nesterov ? momentum : 1.0f;
    const float behind = range.nesterov ? 1.0f : 0.0f;
    for (std::int64_t i = 0; i < range.count; ++i) {
        const float s = held(i), u = without_subnormals(momentum * velocity[i] + s);
        velocity[i] = u;
        weights[i] -= rate * (behind * s + ahead * u);
    }
}

// The sum of each 4096 elements' squares, in double: 16 sums of every 16th square, then halves.
void sums_of_squares(const float* x, std::int64_t n, double* sums) {
    constexpr std::int64_t kBlock = 4096;
    for (std::int64_t first = 0; first < n; first += kBlock) {
        const std::int64_t count = n - first < kBlock ? n - first : kBlock;
        const float* at = x + first;
        double lanes[16] = {};
        std::int64_t i = 0;
        for (; i + 16 <= count; i += 16) {
            for (int j = 0; j < 16; ++j) {
                const double value = static_cast<double>(at[i + j]);
                lanes[j] += value * value;
            }
        }
        for (int j = 0; i < count; ++i, ++j) {
            const double value = static_cast<double>(at[i]);
            lanes[j] += value * value;
        }
        for (int half = 8; half > 0; half /= 2) {
            for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
        }
        sums[first / kBlock] = lanes[0];
    }
}

namespace {

// 16 random bits for each element of the 128 that begin at 128 * block: for element 16 p + g, part
// p of the four words that counter 16 * block + g gives, lower halves first.
THIMBLE_INLINE void random_block(std::uint64_t seed, std::uint64_t stream, std::uint64_t block,
                                 std::uint32_t* out) {
    for (std::uint64_t g = 0; g < 16; ++g) {
        const Philox4 words = philox(seed, block * 16 + g, stream);
        for (int w = 0; w < 4; ++w) {
            out[32 * w + static_cast<int>(g)] = words.v[w] & 0xffffu;
            out[32 * w + 16 + static_cast<int>(g)] = words.v[w] >> 16;
        }
    }
}

THIMBLE_INLINE std::uint16_t rounded(float x, std::uint32_t random) {
    const std::uint32_t bits = float_to_bits(x);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return static_cast<std::uint16_t>((nan ? bits | 0x400000u : bits + random) >> 16);
}

}  // namespace

void round_stochastic(const StochasticRounding& problem) {
    const std::int64_t end = problem.first + problem.count;
    const float* __restrict from = problem.from;
    std::uint16_t* __restrict to = problem.to;
    for (std::int64_t at = problem.first; at < end;) {
        const std::int64_t block = at / 128, skip = at % 128;
        const std::int64_t rest = end - at, n = rest < 128 - skip ? rest : 128 - skip;
        std::uint32_t random[128];
        random_block(problem.seed, problem.stream, static_cast<std::uint64_t>(block), random);
        for (std::int64_t i = 0; i < n; ++i) to[i] = rounded(from[i], random[skip + i]);
        from += n, to += n, at += n;
    }
}

}  // namespace thimble::cpu::THIMBLE_ISA
