// SPDX-License-Identifier: Apache-2.0
// The definition of each operation, as plain loops over float or double, never optimised. The
// reference device runs them in double; tests hold every other kernel against them.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace thimble::ref {

// out = x / sqrt(mean(x^2) + epsilon) * weight
template <class Real>
void rms_norm(const Real* x, const Real* weight, std::int64_t n, Real epsilon, Real* out) {
    Real sum = 0;
    for (std::int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
    const Real root = std::sqrt(sum / static_cast<Real>(n) + epsilon);
    for (std::int64_t i = 0; i < n; ++i) out[i] = x[i] / root * weight[i];
}

template <class Real>
Real silu(Real x) {
    return x / (Real{1} + std::exp(-x));
}

// out = c / s, where s = 127 / max(max |x|, 1e-5) and the code c is x * s rounded to the nearest
// integer, ties to even.
template <class Real>
void round_codes(const Real* x, std::int64_t n, Real* out) {
    Real top = static_cast<Real>(1e-5L);
    for (std::int64_t i = 0; i < n; ++i) top = std::abs(x[i]) > top ? std::abs(x[i]) : top;
    const Real by = 127 / top;
    for (std::int64_t i = 0; i < n; ++i) out[i] = std::nearbyint(x[i] * by) / by;
}

// keep = lowest + (1 - lowest) / (1 + e^-x), take = 1 - keep
template <class Real>
void forget_gate(const Real* x, const Real* lowest, std::int64_t n, Real* keep, Real* take) {
    for (std::int64_t i = 0; i < n; ++i) {
        keep[i] = lowest[i] + (1 - lowest[i]) / (1 + std::exp(-x[i]));
        take[i] = 1 - keep[i];
    }
}

// out = keep * before + take
template <class Real>
void recurrence(const Real* keep, const Real* take, const Real* before, std::int64_t n, Real* out) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = keep[i] * before[i] + take[i];
}

// gelu in its tanh form: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
template <class Real>
Real gelu_tanh(Real x) {
    const Real root = static_cast<Real>(0.79788456080286535588L);
    return x / 2 * (1 + std::tanh(root * (x + static_cast<Real>(0.044715L) * x * x * x)));
}

template <class Real>
Real dot(const Real* a, const Real* b, std::int64_t n) {
    Real sum = 0;
    for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

// Frequency of pair i of `dims` rotated dims, and its angle at a position. factor: the frequency's
// divisor.
inline double rope_frequency(std::int64_t i, std::int64_t dims, double base) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(dims);
    return std::pow(base, exponent);
}
inline double rope_angle(double frequency, double frequency_scale, double factor,
                         std::int64_t position) {
    return static_cast<double>(position) * frequency_scale * frequency / factor;
}
inline double rope_angle(std::int64_t i, std::int64_t dims, double base, double frequency_scale,
                         double factor, std::int64_t position) {
    return rope_angle(rope_frequency(i, dims, base), frequency_scale, factor, position);
}

template <class Real>
void rotate(Real& a, Real& b, Real cosine, Real sine) {
    const Real x = a, y = b;
    a = x * cosine - y * sine;
    b = x * sine + y * cosine;
}

// One query row against all visible slots: softmax(scores) v, in two passes.
// score(slot) gives the masked, scaled and capped logit (-infinity: not visible); value(slot) a
// pointer to that slot's v [dim], valid until the next call.
template <class Real, class Score, class Value>
void attend(std::int64_t slots, std::int64_t dim, Score&& score, Value&& value, Real* out,
            Real* max_out, Real* sum_out) {
    Real top = -std::numeric_limits<Real>::infinity(), sum = 0;
    for (std::int64_t s = 0; s < slots; ++s) top = std::max(top, score(s));
    for (std::int64_t d = 0; d < dim; ++d) out[d] = 0;
    for (std::int64_t s = 0; s < slots; ++s) {
        const Real logit = score(s);
        if (logit == -std::numeric_limits<Real>::infinity()) continue;
        const Real weight = std::exp(logit - top);
        const Real* v = value(s);
        sum += weight;
        for (std::int64_t d = 0; d < dim; ++d) out[d] += weight * v[d];
    }
    for (std::int64_t d = 0; d < dim; ++d) out[d] = sum > 0 ? out[d] / sum : 0;
    *max_out = top;
    *sum_out = sum;
}

// log(sum(exp(x))) and the lowest index of the largest element.
template <class Real>
void row_stats(const Real* x, std::int64_t n, Real* log_sum_exp, std::int64_t* argmax) {
    std::int64_t best = 0;
    for (std::int64_t i = 1; i < n; ++i) best = x[i] > x[best] ? i : best;
    Real sum = 0;
    for (std::int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - x[best]);
    *log_sum_exp = x[best] + std::log(sum);
    *argmax = best;
}

}  // namespace thimble::ref
