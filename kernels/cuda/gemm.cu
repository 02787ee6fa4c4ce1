// SPDX-License-Identifier: Apache-2.0
// Products of f16 and bf16 weights by cuBLAS, sums in float. To cuBLAS, whose matrices are stored
// column after column, the weights are [cols, rows], the input [cols, T] and the output [rows, T].
// Rows of weights or inputs that are no multiples of 16 bytes are right too, but slower.
#include <limits>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/device/blas_check.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {

bool supports_gemm(const Gemm& p) noexcept {
    const Matrix& w = p.weight;
    const auto fits = [](std::int64_t n) { return n <= std::numeric_limits<int>::max(); };
    return (w.layout == LayoutId::k_f16 || w.layout == LayoutId::k_bf16) && w.cols > 0 &&
           w.row_bytes[0] % 2 == 0 && fits(static_cast<std::int64_t>(w.row_bytes[0] / 2)) &&
           fits(w.rows) && fits(w.cols) && fits(p.tokens) && fits(p.out_stride) &&
           p.out_stride >= w.rows && p.blas != nullptr;
}

void gemm(const Gemm& p, Stream&) {
    const Matrix& w = p.weight;
    if (w.rows == 0 || p.tokens == 0) return;
    const cudaDataType_t type = w.layout == LayoutId::k_f16 ? CUDA_R_16F : CUDA_R_16BF;
    const float one = 1, keep = p.accumulate ? 1 : 0;
    check(
        cublasGemmEx(static_cast<cublasHandle_t>(p.blas->handle()), CUBLAS_OP_T, CUBLAS_OP_N,
                     static_cast<int>(w.rows), static_cast<int>(p.tokens), static_cast<int>(w.cols),
                     &one, w.planes[0], type, static_cast<int>(w.row_bytes[0] / 2), p.x, type,
                     static_cast<int>(w.cols), &keep, p.out, CUDA_R_32F,
                     static_cast<int>(p.out_stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "cublasGemmEx");
}

}  // namespace thimble::cuda
