// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels' problems and launchers. Activations are floats, row-major; strides count
// elements; every pointer is device memory unless it says otherwise. A problem with no rows or
// tokens does nothing. Shapes: T = tokens.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/failure.h"
#include "kernels/cuda/stream.h"
#include "kernels/layout/bit_planes.h"
#include "kernels/layout/exponent_code.h"
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
// out = act(gate) * up; out may be gate or up. With `least`, 0 where |act(gate)| <= least.
struct Glu {
    Activation activation;
    const float *gate, *up;
    float* out;
    std::int64_t rows, cols, gate_stride, up_stride, out_stride;
    const float* least = nullptr;  // [cols] or null
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
    std::uint16_t* bf16 = nullptr;  // if not null, in place of out: rounded, to nearest even
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

// Rows as bit planes: code u of `bits` bits is the odd number 2 u - (2^bits - 1), as weights of
// layout bipolar have them; x = scale * that number, to nearest. One bit: the sign, and the mean
// magnitude. The bits and scales that cpu::encode_planes gives.
struct EncodePlanes {
    const float* x;
    std::int64_t rows, cols, stride;  // cols a multiple of 32
    int bits;                         // 1 to 8
    std::uint32_t* planes;            // [rows, bits, plane_words(cols)], layout/bit_planes.h
    float* scales;                    // [rows]; NaN where a value is not finite
};

// Chunks [first_chunk, end_chunk) of a matrix whose exponents are coded (layout/exponent_code.h),
// whole strips, to rows of bf16.
struct DecodeExponents {
    ExponentChunks chunks;
    std::int64_t first_chunk, end_chunk;
    const std::uint8_t *table, *exponents;  // [kTable] and [16] of the code
    const std::uint16_t* words;             // of these chunks
    const std::uint8_t* rest;               // sign and mantissa of their numbers
    const std::uint32_t* starts;            // of their words in the matrix, and their end
    std::uint16_t* out;                     // [rows of their strips, cols]
    std::int32_t* damaged;                  // set to 1 where a chunk does not end with its words
};

// Floats to f16 or bf16, to nearest, ties to even.
struct Narrow {
    const float* x;
    std::int64_t rows, cols, stride;
    LayoutId layout;     // k_f16 or k_bf16
    std::uint16_t* out;  // [rows, cols], no gaps
};

// out[t][r] (+)= sum over k of x[t][k] * w[r][k] (+ bias[r]), sums in float.
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
// The same with both factors in bit planes, by counting bits that differ; whole numbers until a
// group of columns ends.
struct MatmulPlanes {
    Matrix weight;           // layout bipolar
    const std::uint32_t* x;  // [T, x_bits, plane_words(cols)], 16-byte aligned: EncodePlanes
    const float* x_scales;   // [T]
    int x_bits;
    std::int64_t tokens;
    float* out;  // [T, rows]
    std::int64_t out_stride;
    const float* bias;  // [rows] or null
    bool accumulate;
};
// matvec, matvec_half, matvec_i8, matvec_planes: at most this many tokens.
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

// Backward. Gradients are added to what the outputs hold unless a comment says "=".

// r[t] = 1 / sqrt(mean(x[t]^2) + epsilon)
struct InverseRms {
    const float* x;
    std::int64_t rows, cols, stride;
    float epsilon;
    float* r;  // [rows]
};

// Of RmsNorm: dx (+)= r (dy w - x r^2 mean(dy w x)). dx may be dy.
struct RmsNormBackward {
    const float *x, *weight, *dy;
    const float* r;  // [rows], InverseRms
    float* dx;
    std::int64_t rows, cols, x_stride, dy_stride, dx_stride;
    bool accumulate;
};

// Of Glu: dgate = dy up act'(gate), dup = dy act(gate); either may be dy, gate or up.
struct GluBackward {
    Activation activation;
    const float *gate, *up, *dy;
    float *dgate, *dup;
    std::int64_t rows, cols, gate_stride, up_stride, dy_stride, dgate_stride, dup_stride;
};

// sums[i] += sum over t of y[t][i] x[t][i] r[t]; without x or r those are 1.
struct ColumnSums {
    const float* y;
    const float* x;  // or null
    const float* r;  // [rows], or null
    std::int64_t rows, cols, y_stride, x_stride;
    float* sums;  // [cols]
};

// out[t][i] = x[t][i] factors[i] + bias[i]; without these they are 1 and 0. out may be x.
struct ScaleColumns {
    const float* x;
    const float* factors;  // [cols], or null
    const float* bias;     // [cols], or null
    float* out;
    std::int64_t rows, cols, x_stride, out_stride;
};

// out = 0 with probability `rate`, else x * factor: element e = t * cols + i draws word e % 4 of
// Philox(seed, e / 4, stream). out may be x.
struct Dropout {
    const float* x;
    float* out;
    std::int64_t rows, cols, x_stride, out_stride;
    float rate, factor;
    std::uint64_t seed, stream;
};

// table[rows[u]] += factor * (dx[order[starts[u]]] + ... + dx[order[starts[u + 1] - 1]]), one after
// the other.
struct EmbedBackward {
    const float* dx;
    std::int64_t dx_stride;
    const std::int32_t* rows;    // [runs], no two alike
    const std::int32_t* starts;  // [runs + 1]
    const std::int32_t* order;
    std::int64_t runs, cols;
    float* table;
    std::int64_t table_stride;
    float factor;
};

// c [m, n] (+)= a [m, k] b [k, n] by cuBLAS, sums in float; a and b both of floats, or both bf16.
// One that is transposed is held as its transpose, row-major as the others.
struct Product {
    Blas* blas;  // host object
    const void *a, *b;
    bool a_transposed, b_transposed, bf16;
    std::int64_t m, n, k, a_stride, b_stride;
    float* c;
    std::int64_t c_stride;
    bool accumulate;
};

// Attention of whole documents: row t of q sees rows s <= t of k and v with window == 0 or
// t - s < window. dq, dk, dv = ...; dq may be dout.
struct AttentionBackward {
    const float *q, *k, *v,
        *dout;  // q, dout: [T, heads * head_dim]; k, v: [T, kv_heads * head_dim]
    float *dq, *dk, *dv;
    std::int64_t tokens;
    std::int64_t q_stride, k_stride, v_stride, dout_stride, dq_stride, dk_stride, dv_stride;
    int heads, kv_heads, head_dim;  // head_dim a multiple of 4, at most 256
    float scale, softcap;           // softcap 0: none
    std::int64_t window;            // 0: none
    float* stats;                   // scratch, [2, heads, T]
};

// lengths[r] = |W_r + scale * B_r A|, the row of a matrix with a low-rank term.
struct RowLengths {
    Matrix matrix;   // [rows, cols]
    const float* a;  // [rank, cols], no gaps
    const float* b;  // [rows, rank], no gaps
    std::int64_t rank;
    float scale;
    double* lengths;  // [rows]
};

// A tile of logits, columns [first, first + cols) of all, joins each row's statistics: the largest
// so far, sum of exp(logit - largest), the target's logit; first -inf, 0, 0.
struct LossStats {
    const float* z;
    std::int64_t rows, cols, stride, first;
    const std::int32_t* targets;  // [rows]
    double* stats;                // [rows, 3]
};
// Such a tile becomes its gradient, scale * (exp(z - largest) / sum - [is target]).
struct LossGradient {
    float* z;
    std::int64_t rows, cols, stride, first;
    const std::int32_t* targets;
    const double* stats;
    double scale;
};

#define THIMBLE_CUDA_KERNEL(name, Problem)                               \
    [[nodiscard]] bool supports_##name(const Problem& problem) noexcept; \
    void name(const Problem& problem, Stream& stream);
#include "kernels/cuda/kernels.def"
#undef THIMBLE_CUDA_KERNEL

}  // namespace thimble::cuda
