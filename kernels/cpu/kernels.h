// SPDX-License-Identifier: Apache-2.0
// The CPU kernels as a table of function pointers per instruction-set level. Problem structs are
// PODs of raw pointers and sizes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/groups_problem.h"
#include "kernels/cpu/kept_problem.h"
#include "kernels/cpu/scan_problem.h"
#include "kernels/cpu/stack_problem.h"
#include "kernels/encode/scale_search.h"
#include "kernels/layout/bit_planes.h"
#include "kernels/layout/dynamic_map.h"
#include "kernels/layout/isa.h"
#include "kernels/layout/layout.h"

namespace thimble::cpu {

// out[t][r] (+)= sum over k of x[t][k] * w[r][k] (+ bias[r]), for `rows` matrix rows.
struct MatmulRows {
    LayoutId layout;
    LayoutParams params;
    const std::byte* planes[kMaxPlanes];  // first of `rows` rows in the stored layout
    std::size_t row_bytes[kMaxPlanes];    // 0: a table for all rows, or no such plane
    std::int64_t rows, cols;
    const float* x;  // [tokens, cols]
    std::int64_t tokens, x_stride;
    float* out;  // [tokens, rows]
    std::int64_t out_stride;
    const float* bias;  // [rows] or null
    bool accumulate;
};

// The bits of a token's activations: code u of `bits` bits is the odd number 2 u - (2^bits - 1), as
// weights of layout bipolar have them; x = scale * that number, to nearest. One bit: the sign.
struct EncodePlanes {
    const float* x;  // [cols]
    std::int64_t cols;
    int bits;
    std::uint32_t* planes;  // [bits, plane_words(cols)], layout/bit_planes.h
    float* scale;
};

// out[t][r] (+)= sum over k of x[t][k] * w[r][k] (+ bias[r]), weights in layout bipolar, by
// counting bits that differ.
struct MatmulPlanes {
    const std::byte* words;  // first of `rows` rows
    const std::byte* scales;
    std::size_t word_bytes, scale_bytes;  // of a row
    int bits, x_bits;
    std::int64_t rows, cols, group;
    const std::uint32_t* x;  // [tokens, x_bits, plane_words(cols)]
    const float* x_scales;   // [tokens]
    std::int64_t tokens;
    float* out;  // [tokens, rows]
    std::int64_t out_stride;
    const float* bias;  // [rows] or null
    bool accumulate;
};

// Most query rows in one AttentionTile, and most floats of their outputs.
inline constexpr std::int64_t kAttentionRows = 64;
inline constexpr std::int64_t kAttentionOutputs = 16384;
inline constexpr std::int64_t kAttentionSlots = 64;  // slots in one tile
inline constexpr std::int64_t kMaxHeadDim = 1024;

// The queries of one group of heads that share a K/V head, against one tile of slots.
struct AttentionTile {
    const float* q;  // token t, head h of the group: q + t * q_stride + h * dim
    std::int64_t tokens, group, dim, q_stride;
    const std::int64_t* q_positions;  // [tokens]
    LayoutId k_layout, v_layout;
    std::int64_t k_dim;            // elements of a key row
    const std::int16_t* channels;  // [k_dim] of q that a key row holds, ascending; null: all dim
    const std::byte* k;            // first slot of the tile, this K/V head
    const std::byte* v;
    std::size_t k_slot_bytes, v_slot_bytes;
    std::int64_t slots;             // at most kAttentionSlots
    const std::int64_t* positions;  // [slots]; -1: empty
    const float* bias;              // [slots], added to the logits; null: none
    float scale, softcap;           // softcap 0: none
    std::int64_t window, sinks;     // window 0: none
};

// m += new_mean (g - m), v = old_square v + new_square g^2,
// w -= decay w + step_size m / (root_scale sqrt(v) + epsilon); g is scaled first.
struct AdamwRule {
    float gradient_scale, new_mean, old_square, new_square, root_scale, epsilon, step_size, decay;
};
struct AdamwRange {
    AdamwRule rule;
    float* weights;
    const float* gradients;
    float *m, *v;
    std::int64_t count;  // elements of each
};

// The same with m and v as codes of blocks.
inline constexpr std::int64_t kMostBlockElements = 4096;
struct AdamwBlocks {
    AdamwRule rule;
    float* weights;
    const float* gradients;
    const DynamicMap *m_map, *v_map;
    std::uint8_t *m_codes, *v_codes;
    float *m_peaks, *v_peaks;            // one for each block
    std::int64_t count, block_elements;  // the last block may be short
};

// w -= learning_rate s, where s is the scaled gradient, held to +-most, plus decay w; with a
// velocity u = momentum u + s, u or (nesterov) s + momentum u in its place.
struct SgdRange {
    float* weights;
    const float* gradients;
    float* velocity;  // or null
    std::int64_t count;
    float gradient_scale, most, decay, momentum, learning_rate;
    bool nesterov;
};

// Floats to bf16, up or down with the odds that make the mean exact. The random number of element
// `first + i` depends on it, the seed and the stream alone.
struct StochasticRounding {
    const float* from;
    std::uint16_t* to;
    std::int64_t first, count;
    std::uint64_t seed, stream;
};

// One row of the backward of rms_norm.
struct RmsNormGradient {
    const float* x;       // [n]
    const float* weight;  // [n]
    const float* dy;      // [n]
    std::int64_t n;
    float r;  // inverse_rms of x
    bool accumulate;
    float* dx;  // [n], may be dy
};

// Sums over rows of y, or of y * x * r.
struct ColumnSums {
    const float* y;  // [rows, cols]
    std::int64_t y_stride;
    const float* x;  // [rows, cols] or null
    std::int64_t x_stride;
    const float* r;  // [rows]
    std::int64_t rows, cols;
    float* sums;  // [cols]
};

// One row of the backward of softmax.
struct SoftmaxGradient {
    float* s;   // [n]
    float* dp;  // [n]
    std::int64_t n;
    float scale, softcap;    // softcap 0: none
    std::uint16_t* p_bf16;   // [n] or null: the results stay in s and dp
    std::uint16_t* ds_bf16;  // [n]
};

// bfloat16 numbers of one chunk of coded exponents (kernels/layout/exponent_code.h).
struct DecodeExponents {
    const std::uint8_t* table;      // [kTable] of the code
    const std::uint8_t* exponents;  // [16] of the code's symbols
    const std::uint16_t* words;     // the chunk
    const std::uint16_t* words_end;
    const std::uint16_t* readable_end;  // memory that may be read: fastest some 600 words on
    const std::uint8_t* rest;           // [count] sign and mantissa: bits 7 and 0 to 6
    std::int64_t count;
    std::uint16_t* out;  // [count]
    bool* sound;         // set: whether the chunk ended where its words do
    // Another chunk of the same code, or null: two at once hide each other's waiting.
    const DecodeExponents* with = nullptr;
};

#define THIMBLE_KERNEL(name, parameters) void(*name) parameters;
struct KernelTable {
#include "kernels/cpu/kernels.def"
};
#undef THIMBLE_KERNEL

#define THIMBLE_KERNEL(name, parameters) void name parameters;
#define THIMBLE_LEVEL(isa)                 \
    namespace isa {                        \
    extern const KernelTable kKernelTable; \
    }
THIMBLE_LEVEL(portable)
THIMBLE_LEVEL(avx2)
THIMBLE_LEVEL(avx512)
#undef THIMBLE_LEVEL
#ifdef THIMBLE_ISA
namespace THIMBLE_ISA {
#include "kernels/cpu/kernels.def"
}
#endif
#undef THIMBLE_KERNEL

}  // namespace thimble::cpu
