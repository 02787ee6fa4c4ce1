// SPDX-License-Identifier: Apache-2.0
// The definition of each backward operation, as plain loops over float or double.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/ref/ref.h"

namespace thimble::ref {

// dx (+)= r (dy w - x r^2 mean(dy w x)), dweight += dy x r where it is not null, with
// r = 1 / sqrt(mean(x^2) + epsilon). dx may be dy.
template <class Real>
void rms_norm_backward(const Real* x, const Real* weight, const Real* dy, std::int64_t n,
                       Real epsilon, bool accumulate, Real* dx, Real* dweight) {
    Real squares = 0, along = 0;
    for (std::int64_t i = 0; i < n; ++i) {
        squares += x[i] * x[i];
        along += dy[i] * weight[i] * x[i];
    }
    const Real r = 1 / std::sqrt(squares / static_cast<Real>(n) + epsilon);
    const Real factor = r * r * along / static_cast<Real>(n);
    for (std::int64_t i = 0; i < n; ++i) {
        const Real upstream = dy[i];
        const Real gradient = r * (upstream * weight[i] - x[i] * factor);
        dx[i] = accumulate ? dx[i] + gradient : gradient;
        if (dweight != nullptr) dweight[i] += upstream * x[i] * r;
    }
}

// d silu(x) / dx
template <class Real>
Real silu_slope(Real x) {
    const Real gate = 1 / (1 + std::exp(-x));
    return gate * (1 + x * (1 - gate));
}

// d gelu_tanh(x) / dx
template <class Real>
Real gelu_tanh_slope(Real x) {
    const Real root = static_cast<Real>(0.79788456080286535588L);
    const Real cubic = static_cast<Real>(0.044715L);
    const Real t = std::tanh(root * (x + cubic * x * x * x));
    return (1 + t) / 2 + x / 2 * (1 - t * t) * root * (1 + 3 * cubic * x * x);
}

// Gradients of one query row of attend() over slots [first, end), all visible, with logits
// l(scale q k), l(s) = softcap tanh(s / softcap) where softcap is not zero. key(s), value(s): that
// slot's rows [dim]; dkey(s), dvalue(s): where theirs are added. dq = ..., and may not be dout.
template <class Real, class Key, class Value, class DKey, class DValue>
void attend_backward(const Real* q, const Real* dout, std::int64_t first, std::int64_t end,
                     std::int64_t dim, Real scale, Real softcap, Key&& key, Value&& value,
                     DKey&& dkey, DValue&& dvalue, Real* dq) {
    const auto logit = [&](std::int64_t s) {
        const Real x = scale * dot(q, key(s), dim);
        return softcap > 0 ? softcap * std::tanh(x / softcap) : x;
    };
    Real top = -std::numeric_limits<Real>::infinity(), sum = 0, mean = 0;
    for (std::int64_t s = first; s < end; ++s) top = std::max(top, logit(s));
    for (std::int64_t s = first; s < end; ++s) {
        const Real weight = std::exp(logit(s) - top);
        sum += weight;
        mean += weight * dot(dout, value(s), dim);
    }
    mean /= sum;
    for (std::int64_t d = 0; d < dim; ++d) dq[d] = 0;
    for (std::int64_t s = first; s < end; ++s) {
        const Real l = logit(s), p = std::exp(l - top) / sum;
        const Real slope = softcap > 0 ? 1 - (l / softcap) * (l / softcap) : Real{1};
        const Real ds = p * (dot(dout, value(s), dim) - mean) * slope * scale;
        const Real* k = key(s);
        Real *to_key = dkey(s), *to_value = dvalue(s);
        for (std::int64_t d = 0; d < dim; ++d) {
            dq[d] += ds * k[d];
            to_key[d] += ds * q[d];
            to_value[d] += p * dout[d];
        }
    }
}

}  // namespace thimble::ref
