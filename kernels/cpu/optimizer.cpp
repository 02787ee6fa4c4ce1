// SPDX-License-Identifier: Apache-2.0
// Updates of weights by optimizers. Only operations that IEEE 754 rounds exactly, never contracted:
// every level gives the same bits. The plain loops are vectorised by the compiler.
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

// 0 below the smallest normal number.
THIMBLE_INLINE float without_subnormals(float x) {
    return __builtin_fabsf(x) < 0x1p-126f ? 0.0f : x;
}

// One element; returns the new weight.
THIMBLE_INLINE float adamw_element(const AdamwRule& rule, float w, float gradient, float& m,
                                   float& v) {
    const float g = gradient * rule.gradient_scale;
    m = without_subnormals(m + rule.new_mean * (g - m));
    v = without_subnormals(v * rule.old_square + rule.new_square * (g * g));
    const float root = __builtin_sqrtf(v) * rule.root_scale + rule.epsilon;
    return w - (rule.decay * w + rule.step_size * (m / root));
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
    for (std::int64_t i = 0; i < n; ++i) codes[i] = map.encode(x[i] / peak);
}

}  // namespace

void adamw(const AdamwRange& range) {
    const AdamwRule rule = range.rule;
    float* __restrict weights = range.weights;
    const float* __restrict gradients = range.gradients;
    float* __restrict m = range.m;
    float* __restrict v = range.v;
    for (std::int64_t i = 0; i < range.count; ++i)
        weights[i] = adamw_element(rule, weights[i], gradients[i], m[i], v[i]);
}

void adamw_blocks(const AdamwBlocks& blocks) {
    const AdamwRule rule = blocks.rule;
    const DynamicMap &m_map = *blocks.m_map, &v_map = *blocks.v_map;
    float m[kMostBlockElements], v[kMostBlockElements];
    for (std::int64_t b = 0, first = 0; first < blocks.count; ++b, first += blocks.block_elements) {
        const std::int64_t left = blocks.count - first;
        const std::int64_t n = left < blocks.block_elements ? left : blocks.block_elements;
        float* __restrict weights = blocks.weights + first;
        const float* __restrict gradients = blocks.gradients + first;
        std::uint8_t *m_codes = blocks.m_codes + first, *v_codes = blocks.v_codes + first;
        const float m_peak = blocks.m_peaks[b], v_peak = blocks.v_peaks[b];
        for (std::int64_t i = 0; i < n; ++i) m[i] = m_map.values[m_codes[i]] * m_peak;
        for (std::int64_t i = 0; i < n; ++i) v[i] = v_map.values[v_codes[i]] * v_peak;
        for (std::int64_t i = 0; i < n; ++i)
            weights[i] = adamw_element(rule, weights[i], gradients[i], m[i], v[i]);
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
