// SPDX-License-Identifier: Apache-2.0
// Products with a matrix that is a sum of signed blocks of low rank, as many of them as are in
// memory (kernels/cpu/stack_problem.h has the paper and the two formulations).
#pragma once

#include <optional>
#include <span>

#include "format/packed.h"
#include "kernels/cpu/stack_problem.h"
#include "ops/exec.h"

namespace thimble::ops {

using cpu::SignedBlock;

// Borrowed.
struct Stack {
    Shape2 shape;
    std::int64_t rank = 0;
    std::span<const SignedBlock> blocks = {};
    // Room for rows of the matrix while many tokens pass by: rows of shape.cols floats.
    std::span<float> room = {};
};

// Rows that are rebuilt at once, and the room that they take.
[[nodiscard]] std::int64_t stack_room_rows(Shape2 shape) noexcept;
[[nodiscard]] std::size_t stack_room_bytes(Shape2 shape) noexcept;

struct StackMatmul {
    const Stack* stack = nullptr;
    View out;  // [T, rows]
    std::optional<View> bias = {};
    bool accumulate = false;
};
// out (+)= x w^T (+ bias), on the CPU. A token's bits depend on whether there are more than
// kStackTokens of them: beyond, rows are rebuilt and multiplied by dense GEMM, and sums are made in
// another order.
void stack_matmul(const Exec& exec, View x, const StackMatmul& problem);
inline constexpr std::int64_t kStackTokens = 4;

// Rows of the matrix as F32; out: [rows.count, cols], no gaps between rows.
void stack_rows(const Exec& exec, const Stack& stack, RowRange rows, std::span<float> out);

}  // namespace thimble::ops
