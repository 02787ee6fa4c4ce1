// SPDX-License-Identifier: Apache-2.0
// Updates of weights by optimizers. Only operations that IEEE 754 rounds exactly, never contracted:
// every level gives the same bits. These loops are bound by memory, and the compiler vectorises
// them.
#include "kernels/cpu/kernels.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

// 0 below the smallest normal number.
inline __attribute__((always_inline)) float without_subnormals(float x) {
    return __builtin_fabsf(x) < 0x1p-126f ? 0.0f : x;
}

}  // namespace

void adamw(const AdamwRange& range) {
    const AdamwRule rule = range.rule;
    float* __restrict weights = range.weights;
    const float* __restrict gradients = range.gradients;
    float* __restrict means = range.m;
    float* __restrict squares = range.v;
    for (std::int64_t i = 0; i < range.count; ++i) {
        const float g = gradients[i], w = weights[i];
        const float m = without_subnormals(means[i] + rule.new_mean * (g - means[i]));
        const float v =
            without_subnormals(squares[i] * rule.old_square + rule.new_square * (g * g));
        const float root = __builtin_sqrtf(v) * rule.root_scale + rule.epsilon;
        means[i] = m;
        squares[i] = v;
        weights[i] = w - (rule.decay * w + rule.step_size * (m / root));
    }
}

}  // namespace thimble::cpu::THIMBLE_ISA
