// SPDX-License-Identifier: Apache-2.0
// What the products by dense GEMM share: how operands are held, weights decoded panel by panel,
// results split into tiles; on a CUDA device cuBLAS does the splitting. Every size follows from
// shapes alone, so results do not depend on the number of threads.
#pragma once

#include <functional>

#include "ops/dispatch.h"

namespace thimble::ops::dense {

// Operands are F32 or, with Activations::kBf16, rounded to BF16; the latter are held as F32 where
// the CPU has no products of BF16: the products are the same.
[[nodiscard]] bool rounds(const Exec& exec);
[[nodiscard]] DType held(const Exec& exec);

// Bytes of a [rows, cols] operand beside the F32 that it is made from; 0: that serves as it is.
[[nodiscard]] std::size_t operand_bytes(const Exec& exec, std::int64_t rows, std::int64_t cols);
// x as an operand: x itself, or made in the workspace.
[[nodiscard]] View operand(const Exec& exec, View x);
// One row of it.
void narrow(const Exec& exec, const float* x, std::int64_t n, void* out);

// Calls fn(rows, w), w: [rows.count, cols] as an operand, for panels of rows that cover the matrix
// in order; each is decoded by the whole team or the device, or read where it lies.
void for_panels(const Exec& exec, const PackedView& weight,
                const std::function<void(RowRange rows, View w)>& fn);
[[nodiscard]] std::size_t panel_bytes(const Exec& exec, Shape2 weight);

// c (+)= a b. An operand that is transposed is held as its transpose.
struct Product {
    View a;  // [m, k]
    bool a_transposed = false;
    View b;  // [k, n]
    bool b_transposed = false;
    View c;  // [m, n], F32
    bool accumulate = false;
    const float* bias = nullptr;  // [n], added too
};
void multiply(const Product& product);                          // on the CPU, on the calling thread
void multiply_tiled(const Exec& exec, const Product& product);  // by the team or the device

}  // namespace thimble::ops::dense
