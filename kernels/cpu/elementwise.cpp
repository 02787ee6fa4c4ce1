// SPDX-License-Identifier: Apache-2.0
// Norm, residual add, gated activations and rotation of one row of activations.
#include "kernels/cpu/activation.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

// Applies fn to whole vectors of (a, b) and to a zero-padded copy of the rest, so that every
// element goes through the same arithmetic wherever it stands.
template <class Fn>
THIMBLE_INLINE void map(const float* a, const float* b, std::int64_t n, float* out, Fn fn) {
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(out + i, fn(load(a + i), load(b + i)));
    if (i == n) return;
    float rest_a[kLanes] = {}, rest_b[kLanes] = {}, rest[kLanes];
    for (std::int64_t j = i; j < n; ++j) rest_a[j - i] = a[j], rest_b[j - i] = b[j];
    store(rest, fn(load(rest_a), load(rest_b)));
    for (std::int64_t j = i; j < n; ++j) out[j] = rest[j - i];
}

}  // namespace

// out = x / sqrt(mean(x^2) + epsilon) * weight. out may be x.
void rms_norm(const float* x, const float* weight, std::int64_t n, float epsilon, float* out) {
    vf sums[4] = {};
    std::int64_t i = 0;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
        for (int j = 0; j < 4; ++j) {
            const vf v = load(x + i + j * kLanes);
            sums[j] = fma(v, v, sums[j]);
        }
    }
    for (; i + kLanes <= n; i += kLanes) {
        const vf v = load(x + i);
        sums[0] = fma(v, v, sums[0]);
    }
    float sum = sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < n; ++i) sum = fma(x[i], x[i], sum);
    const vf inverse = broadcast(1.0f / __builtin_sqrtf(sum / static_cast<float>(n) + epsilon));
    map(
        x, weight, n,
        out, [&](vf v, vf w) __attribute__((always_inline)) { return v * inverse * w; });
}

void add(const float* a, const float* b, std::int64_t n, float* out) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

void scale(float* x, float factor, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) x[i] *= factor;
}

// out = gate / (1 + e^-gate) * up
void silu_glu(const float* gate, const float* up, std::int64_t n, float* out) {
    map(
        gate, up, n, out, [](vf g, vf u) __attribute__((always_inline)) { return silu(g) * u; });
}

// out = 0.5 gate (1 + tanh(sqrt(2 / pi) (gate + 0.044715 gate^3))) * up
void gelu_glu(const float* gate, const float* up, std::int64_t n, float* out) {
    map(
        gate, up, n, out,
        [](vf g, vf u) __attribute__((always_inline)) { return gelu_tanh(g) * u; });
}

// out = c / s, where s = 127 / max(max |x|, 1e-5) and the code c is x * s rounded to the nearest
// integer, ties to even. out may be x.
void round_codes(const float* x, std::int64_t n, float* out) {
    vf tops = {};
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const vf v = load(x + i);
        tops = max(tops, max(v, -v));
    }
    float top = max_lanes(tops);
    for (; i < n; ++i) top = __builtin_fabsf(x[i]) > top ? __builtin_fabsf(x[i]) : top;
    const vf by = broadcast(127.0f / (top > 1e-5f ? top : 1e-5f));
    // Codes are at most 127 from zero: adding 1.5 * 2^23 rounds them.
    const vf magic = broadcast(12582912.0f);
    map(
        x, x, n, out, [&](vf v, vf) __attribute__((always_inline)) {
            return ((v * by + magic) - magic) / by;
        });
}

// keep = lowest + (1 - lowest) / (1 + e^-x), take = 1 - keep. keep may be x.
void forget_gate(const float* x, const float* lowest, std::int64_t n, float* keep, float* take) {
    const vf one = broadcast(1.0f);
    map(
        x, lowest, n, keep, [&](vf v, vf low) __attribute__((always_inline)) {
            return fma(one - low, one / (one + exp(-v)), low);
        });
    for (std::int64_t i = 0; i < n; ++i) take[i] = 1.0f - keep[i];
}

// out = keep * before + take
void recurrence(const float* keep, const float* take, const float* before, std::int64_t n,
                float* out) {
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
        store(out + i, fma(load(keep + i), load(before + i), load(take + i)));
    for (; i < n; ++i) out[i] = fma(keep[i], before[i], take[i]);
}

// Rotates the pairs (i, i + half) of one head by the angles whose cosines and sines are given.
void rope_halves(float* x, const float* cosine, const float* sine, std::int64_t half) {
    for (std::int64_t i = 0; i < half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = a * sine[i] + b * cosine[i];
    }
}

// The same for the pairs (2i, 2i + 1).
void rope_interleaved(float* x, const float* cosine, const float* sine, std::int64_t half) {
    for (std::int64_t i = 0; i < half; ++i) {
        const float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cosine[i] - b * sine[i];
        x[2 * i + 1] = a * sine[i] + b * cosine[i];
    }
}

// max and the lowest index that holds it; sum of e^(x - max), added up in double every 4096
// elements. A row that holds a NaN gives a NaN sum.
void row_stats(const float* x, std::int64_t n, float* max_out, std::int32_t* argmax, double* sum) {
    vf largest = broadcast(-__builtin_inff());
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) largest = max(load(x + i), largest);
    float top = max_lanes(largest);
    for (; i < n; ++i) top = x[i] > top ? x[i] : top;
    std::int64_t at = 0;
    while (at < n && x[at] != top) ++at;
    *max_out = top;
    *argmax = at < n ? static_cast<std::int32_t>(at) : 0;

    double total = 0;
    const vf shift = broadcast(top);
    for (std::int64_t begin = 0; begin < n; begin += 4096) {
        const std::int64_t end = begin + 4096 < n ? begin + 4096 : n;
        vf part = {};
        for (i = begin; i + kLanes <= end; i += kLanes) part += exp(load(x + i) - shift);
        if (i < end) {
            float rest[kLanes];
            for (int j = 0; j < kLanes; ++j) rest[j] = i + j < end ? x[i + j] : -__builtin_inff();
            part += exp(load(rest) - shift);
        }
        total += static_cast<double>(sum_lanes(part));
    }
    *sum = total;
}

// x = factor * exp(x - shift)
void scaled_exp(float* x, std::int64_t n, float shift, float factor) {
    const vf minus = broadcast(shift), times = broadcast(factor);
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(x + i, exp(load(x + i) - minus) * times);
    if (i < n) {
        float rest[kLanes] = {};
        for (std::int64_t j = i; j < n; ++j) rest[j - i] = x[j];
        store(rest, exp(load(rest) - minus) * times);
        for (std::int64_t j = i; j < n; ++j) x[j] = rest[j - i];
    }
}

}  // namespace thimble::cpu::THIMBLE_ISA
