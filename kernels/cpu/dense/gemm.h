// SPDX-License-Identifier: Apache-2.0
// Dense matrix products by oneDNN, on one thread. Compiled once: the library chooses its own code
// for the machine, up to the level of limit_gemm().
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/layout/isa.h"

namespace thimble::cpu {

// Element (i, j) is at data[i * row_stride + j * col_stride]; one of the strides is 1.
struct GemmOperand {
    const void* data;
    std::int64_t row_stride, col_stride;
};

// c (+)= a b, summed in F32.
struct Gemm {
    bool bf16;             // a and b hold bfloat16, else float
    std::int64_t m, n, k;  // none of them zero
    GemmOperand a;         // [m, k]
    GemmOperand b;         // [k, n]
    float* c;              // [m, n]
    std::int64_t c_stride;
    bool accumulate;
};

// The highest level that the library may use. The first call decides for the process: later ones
// change nothing. Returns the level that holds.
Isa limit_gemm(Isa isa);
// Whether this machine, up to that level, multiplies bfloat16 in hardware. Where it does not,
// `bf16` is not supported.
[[nodiscard]] bool gemm_has_bf16();

// Throws std::runtime_error where the library fails.
// differs: the design page wants the library's scratch in the ledger. Of its kernels only this one
// takes any strides and sizes without compiling code for each; it allocates its packing buffer
// itself: up to 1 MiB a thread at the sizes of ops' tiles, 2 MiB in the backward of attention.
void gemm(const Gemm& problem);

}  // namespace thimble::cpu
