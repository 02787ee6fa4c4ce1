// SPDX-License-Identifier: Apache-2.0
// The one way blocks multiply by weights:
//   y = row_scale * (x W^T + sum of scale * drop(x) A^T B^T) (+ bias),
// where a matrix with coded input has codes(norm(x)) for the x before W.
// A Linear borrows its weights from a lease and is serialised with its tensors: <name>.weight and
// <name>.bias. Low-rank terms: "LoRA: Low-Rank Adaptation of Large Language Models" (2021); with a
// row scale: "DoRA: Weight-Decomposed Low-Rank Adaptation" (2024). Coded input: the BitLinear of
// "Scalable MatMul-free Language Modeling" (2024).
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "ops/ops.h"

namespace thimble {

namespace ops {
struct Stack;
}

// Zeroes elements of a term's input with probability `rate` and scales the others by
// 1 / (1 - rate). Which ones depends on (seed, stream, element) alone, so a pass computed anew
// meets the same.
struct Dropout {
    double rate = 0;
    std::uint64_t seed = 0, stream = 0;
};

struct LowRank {
    PackedView a;  // [rank, in]
    PackedView b;  // [out, rank]
    double scale = 1;
    Dropout dropout = {};
};

// What a model trained with codes of 8 bits for activations does before a product, whatever
// exec.activations says: an RMS norm of the matrix's own, then ops::round_codes.
struct CodedInput {
    View norm;  // [1, in]
    double epsilon = 0;
};

// How a matrix lies that few rows of are read at a time (ops/kept.h); more tokens have it packed
// anew.
enum class Skips : std::uint8_t {
    kNothing,
    kOutputs,  // row by row: outputs are left out
    kInputs,   // [in, out]: inputs are
};

// Two matrices whose product is the weight, b a: multiplied one after the other.
struct Factors {
    PackedView a;  // [rank, in]
    PackedView b;  // [out, rank]
};

struct Linear {
    PackedView weight;                       // [out, in]
    std::optional<View> bias = {};           // [1, out]
    std::span<const LowRank> low_rank = {};  // owned by the store
    std::optional<View> row_scale = {};      // [1, out]
    std::optional<CodedInput> coded = {};    // without low-rank terms and row scale
    // Of these there is one at most; `weight` is then only the shape of it.
    const ops::Stack* stack = nullptr;  // owned by the store
    std::optional<Factors> factors = {};
    Skips skips = Skips::kNothing;  // not trained through, and without low-rank terms

    // An application: y = this(x), or y += this(x); y: [T, out].
    struct Use {
        const Linear* linear = nullptr;
        View y;
        bool accumulate = false;
    };
    [[nodiscard]] std::int64_t in() const noexcept {
        return skips == Skips::kInputs ? weight.shape.rows : weight.shape.cols;
    }
    [[nodiscard]] std::int64_t out() const noexcept {
        return skips == Skips::kInputs ? weight.shape.cols : weight.shape.rows;
    }
    [[nodiscard]] Use into(View y) const { return {this, y, false}; }
    [[nodiscard]] Use onto(View y) const { return {this, y, true}; }
};

// Most Linears that share one input.
inline constexpr std::size_t kMostUses = 4;
// Runs applications of Linears that share one input; x: [T, in].
void apply(const Exec& exec, View x, std::span<const Linear::Use> uses);

// x as `linear` multiplies it, in workspace that is the caller's until it rewinds; x itself where
// its input is not coded.
[[nodiscard]] View product_input(const Exec& exec, const Linear& linear, View x);

// Workspace bytes that apply() takes at most for an input of `tokens` rows of `in` columns, coded
// or not, besides what low-rank terms need.
[[nodiscard]] std::size_t apply_bytes(const Exec& exec, std::int64_t tokens, std::int64_t in,
                                      bool coded);

// Workspace bytes that it takes besides for a matrix [out, in] of floats that lies so that rows can
// be skipped.
[[nodiscard]] std::size_t skipping_bytes(LayoutId layout, Shape2 shape);

// Workspace bytes that factors of at most this rank add to apply().
[[nodiscard]] std::size_t factor_bytes(const Exec& exec, std::int64_t tokens, std::int64_t rank);

// Workspace bytes that low-rank terms add to apply() at most, with inputs and outputs of at most
// `widest` columns.
[[nodiscard]] std::size_t low_rank_bytes(const Exec& exec, std::int64_t tokens, std::int64_t rank,
                                         std::int64_t widest, bool row_scale);

}  // namespace thimble
