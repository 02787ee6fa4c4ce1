// SPDX-License-Identifier: Apache-2.0
// Gated feed-forward blocks whose small activations are dropped, as problems: with all weights, and
// one token's with the rows of those channels only that it keeps. A channel is kept where the size
// of its activation is larger than `least`; a tie drops, NaN is kept.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/layout/layout.h"

namespace thimble::cpu {

// out = act(gate) * up where that is kept, else 0. out may be gate or up.
struct GluAbove {
    bool gelu;  // its tanh form; else silu
    const float* gate;
    const float* up;
    const float* least;
    std::int64_t n;
    float* out;
};

// The channels that are kept, ascending, and their activations. Both lists have room for
// n + kListSlack.
inline constexpr std::int64_t kListSlack = 16;
struct KeptChannels {
    bool gelu;
    const float* gate;
    const float* least;
    std::int64_t n;
    std::int32_t* channels;
    float* values;
    std::int64_t* count;
};

// Rows of a matrix of floats (layouts f32, f16, bf16) that a list names.
struct ListedRows {
    LayoutId layout;
    const std::byte* weights;  // row 0
    std::size_t row_bytes;
    std::int64_t cols;
    const std::int32_t* rows;  // [count]
    std::int64_t count;
    float* values;  // [count]
};

}  // namespace thimble::cpu
