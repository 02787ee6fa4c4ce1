// SPDX-License-Identifier: Apache-2.0
// Matmul of interleaved layouts as a problem: apart from the other kernels, because what solves it
// takes long to compile.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/layout/layout.h"

namespace thimble::cpu {

// 32 columns of a token's activations as 8-bit codes: x = scale * code, to nearest, ties to even.
// differs: the design page gives K types blocks of 256; one block size serves every format with one
// quantised input, and is the more accurate.
struct I8Block {
    std::int8_t codes[32];
    float scale;
    float sum;                        // scale * sum of the codes
    float half_sums[2];               // the same of columns 0-15 and 16-31
    std::int32_t negative_sum;        // -(sum of the codes)
    std::int32_t negative_halves[2];  // of the same halves
};

// out[t][r] (+)= sum over k of x[t][k] * w[r][k] (+ bias[r]), for groups of 16 rows in an
// interleaved layout. Input is `x`, or `i8` where that is not null (never for float weights).
struct MatmulGroups {
    LayoutId layout;  // ..._x16
    LayoutParams params;
    const std::byte* weights;  // first group
    std::size_t group_bytes;
    std::int64_t rows, cols;  // rows: what the groups hold, padding not counted
    const float* x;           // [tokens, cols]
    std::int64_t tokens, x_stride;
    const I8Block* i8;  // [tokens, cols / 32]
    std::int64_t i8_stride;
    float* out;  // [tokens, rows]
    std::int64_t out_stride;
    const float* bias;  // [rows] or null
    bool accumulate;
};

}  // namespace thimble::cpu
