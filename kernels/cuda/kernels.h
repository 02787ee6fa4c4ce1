// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels' problems and launchers. Activations are floats, row-major; strides count
// elements; every pointer is device memory unless it says otherwise. A problem with no rows or
// tokens does nothing. Shapes: T = tokens.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/failure.h"
#include "kernels/cuda/stream.h"
#include "kernels/layout/layout.h"

namespace thimble::cuda {

// out[r] = x[r] / sqrt(mean(x[r]^2) + epsilon) * weight; out may be x.
struct RmsNorm {
    const float* x;
    const float* weight;  // [cols]
    float* out;
    std::int64_t rows, cols, x_stride, out_stride;
    float epsilon;
};

// out = a + b; out may be either.
struct Add {
    const float *a, *b;
    float* out;
    std::int64_t rows, cols, a_stride, b_stride, out_stride;
};

struct Scale {
    float* x;
    std::int64_t rows, cols, stride;
    float factor;
};

enum class Activation : std::uint8_t { kSilu, kGeluTanh };
// out = act(gate) * up; out may be gate or up.
struct Glu {
    Activation activation;
    const float *gate, *up;
    float* out;
    std::int64_t rows, cols, gate_stride, up_stride, out_stride;
};

// Rotates the first `dims` of each head in place. x: [T, heads * head_dim]. The angle of pair i at
// position p is p * frequencies[i], in double.
struct RopeRows {
    float* x;
    std::int64_t tokens, stride;
    int heads, head_dim, dims;
    bool halves;                    // pairs (i, i + dims/2), else (2i, 2i+1)
    const std::int64_t* positions;  // [T]
    const double* frequencies;      // [dims / 2]
};

// A packed matrix in a stored layout.
struct Matrix {
    LayoutId layout;
    LayoutParams params;
    const std::byte* planes[kMaxPlanes];
    std::size_t row_bytes[kMaxPlanes];  // 0: a table for all rows, or no such plane
    std::int64_t rows, cols;
};

// out[t] = factor * table[tokens[t]]
struct Embed {
    Matrix table;
    const std::int32_t* tokens;  // [T], each below table.rows
    float* out;
    std::int64_t count, out_stride;
    float factor;
};

// out[r] = the matrix's row first + r.
struct DecodeRows {
    Matrix matrix;
    std::int64_t first, count;
    float* out;
    std::int64_t out_stride;
};

// Of each row: its largest value, the lowest place of it, and sum(exp(x - max)).
struct RowStatistics {
    const float* x;
    std::int64_t rows, cols, stride;
    float* max;            // [rows]
    std::int32_t* argmax;  // [rows]
    float* sum;            // [rows]
};

// The k largest of a row and their places, largest first, equal ones by place; what is NaN or
// +infinity comes before all.
inline constexpr std::int64_t kTopSlice = 2048, kMostTop = 256;
struct TopK {
    const float* x;
    std::int64_t cols, k;    // k at most kMostTop and cols
    std::uint64_t* scratch;  // [top_k_scratch(cols, k)]
    float* values;           // [k]
    std::int32_t* places;    // [k]
};
[[nodiscard]] constexpr std::int64_t top_k_scratch(std::int64_t cols, std::int64_t k) noexcept {
    std::int64_t sum = 0;
    for (std::int64_t n = cols; n > kTopSlice; sum += n) n = (n + kTopSlice - 1) / kTopSlice * k;
    return sum;
}

// Blocks of 32 columns as 8-bit codes: x = scale * code, scale = largest magnitude / 127, to
// nearest, ties to even. cols is a multiple of 32.
struct QuantiseI8 {
    const float* x;
    std::int64_t rows, cols, stride;
    std::int8_t* codes;  // [rows, cols], no gaps
    float* scales;       // [rows, cols / 32]
    float* sums;         // [rows, cols / 32, 2]: scale * sum of the codes of columns 0-15, 16-31
};

// Floats to f16 or bf16, to nearest, ties to even.
struct Narrow {
    const float* x;
    std::int64_t rows, cols, stride;
    LayoutId layout;     // k_f16 or k_bf16
    std::uint16_t* out;  // [rows, cols], no gaps
};

// out[t][r] (+)= sum over k of x[t][k] * w[r][k] (+ bias[r]), sums in float. matmul_mma rounds both
// factors to bf16, or to f16 where the weights are (then |x| < 65520).
struct Matmul {
    Matrix weight;
    const float* x;  // [T, cols]
    std::int64_t tokens, x_stride;
    // The same input in 8 bits (QuantiseI8) for matvec_i8; null otherwise.
    const std::int8_t* codes;
    const float* scales;
    const float* sums;
    float* out;  // [T, rows]
    std::int64_t out_stride;
    const float* bias;  // [rows] or null
    bool accumulate;
};
// matvec, matvec_half, matvec_i8: at most this many tokens.
inline constexpr std::int64_t kMatvecTokens = 8;

class Blas;  // blas.h
// The same for f16 or bf16 weights and an input narrowed to their type (Narrow), by cuBLAS with
// sums in float. Bias is not taken.
struct Gemm {
    Blas* blas;  // host object
    Matrix weight;
    const std::uint16_t* x;  // [T, cols], no gaps
    std::int64_t tokens;
    float* out;
    std::int64_t out_stride;
    bool accumulate;
};

// x [T, heads * head_dim] to T * heads rows of blocks of `layout`: f32, f16, bf16 or q8_0.
struct EncodeKv {
    const float* x;
    std::int64_t tokens, stride;
    int heads, head_dim;
    LayoutId layout;
    std::byte* out;
    std::size_t token_bytes, head_bytes;
};

// Keys or values: the row of head h in slot s begins at data + s * token_bytes + h * head_bytes.
struct KvRows {
    const std::byte* data;
    LayoutId layout;  // f32, f16, bf16 or q8_0
    std::size_t token_bytes, head_bytes;
};
inline constexpr std::int64_t kSplitSlots = 256;
// Attention over one segment of the KV memory, cut into splits of kSplitSlots slots. Each split
// leaves, for each token and head, a state that can be merged: o (normalised within the split), the
// largest logit and the sum of exp(logit - max); sum 0 where the row sees no slot.
struct AttentionSplit {
    const float* q;  // [T, heads * head_dim], rotated
    std::int64_t tokens, q_stride;
    const std::int64_t* q_positions;  // [T]
    int heads, kv_heads, head_dim;    // head_dim a multiple of 8, at most 512
    KvRows k, v;
    std::int64_t slots;
    const std::int64_t* positions;  // [slots], -1: empty; null: slot i is at first_position + i
    std::int64_t first_position;
    float scale, softcap;        // softcap 0: none
    std::int64_t window, sinks;  // key visible iff 0 <= q - k and (window == 0 or q - k < window or
                                 // k < sinks)
    // Of split s of this segment: o + s * T * heads * head_dim, max and sum + s * T * heads.
    float* o;
    float* max;
    float* sum;
};
[[nodiscard]] constexpr std::int64_t splits_of(std::int64_t slots) noexcept {
    return (slots + kSplitSlots - 1) / kSplitSlots;
}

// Merges states, ascending: rows = T * heads.
struct AttentionMerge {
    const float* o;    // [splits, rows, head_dim]
    const float* max;  // [splits, rows]
    const float* sum;
    std::int64_t splits, tokens;
    int heads, head_dim;
    float* out;  // [T, heads * head_dim]
    std::int64_t out_stride;
    float* out_max;  // [rows], or null
    float* out_sum;
};

#define THIMBLE_CUDA_KERNEL(name, Problem)                               \
    [[nodiscard]] bool supports_##name(const Problem& problem) noexcept; \
    void name(const Problem& problem, Stream& stream);
#include "kernels/cuda/kernels.def"
#undef THIMBLE_CUDA_KERNEL

}  // namespace thimble::cuda
