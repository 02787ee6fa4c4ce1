// SPDX-License-Identifier: Apache-2.0
// Activation functions of gated feed-forward blocks over vectors: whatever they are part of, one
// gate gives one activation.
#pragma once

#include "kernels/cpu/simd.h"

namespace thimble::cpu::THIMBLE_ISA {

// g / (1 + e^-g)
THIMBLE_INLINE vf silu(vf g) { return g / (broadcast(1.0f) + exp(-g)); }

// 0.5 g (1 + tanh(y)), where y = sqrt(2 / pi) (g + 0.044715 g^3): 0.5 (1 + tanh(y)) =
// 1 / (1 + e^-2y), which loses nothing where tanh(y) is near -1.
THIMBLE_INLINE vf gelu_tanh(vf g) {
    const vf y = g * fma(g * g, broadcast(0.0356774081f), broadcast(0.7978845608f));
    return g / (broadcast(1.0f) + exp(-(y + y)));
}

}  // namespace thimble::cpu::THIMBLE_ISA
