// SPDX-License-Identifier: Apache-2.0
// Dense products by cuBLAS, sums in float; floats are multiplied as floats, never rounded to TF32.
// To cuBLAS, whose matrices are stored column after column, this is c^T = b^T a^T: b comes first,
// and what is held row-major as it is named is not transposed.
#include <limits>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/device/blas_check.cuh"
#include "kernels/cuda/kernels.h"

namespace thimble::cuda {

bool supports_product(const Product& p) noexcept {
    const auto fits = [](std::int64_t n) { return n >= 0 && n <= std::numeric_limits<int>::max(); };
    return fits(p.m) && fits(p.n) && fits(p.k) && fits(p.a_stride) && fits(p.b_stride) &&
           fits(p.c_stride) && p.k > 0 && p.a_stride >= (p.a_transposed ? p.m : p.k) &&
           p.b_stride >= (p.b_transposed ? p.k : p.n) && p.c_stride >= p.n;
}

void product(const Product& p, Stream&) {
    if (p.m == 0 || p.n == 0) return;
    const cudaDataType_t type = p.bf16 ? CUDA_R_16BF : CUDA_R_32F;
    const float one = 1, keep = p.accumulate ? 1 : 0;
    check(cublasGemmEx(static_cast<cublasHandle_t>(p.blas->handle()),
                       p.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                       p.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N, static_cast<int>(p.n),
                       static_cast<int>(p.m), static_cast<int>(p.k), &one, p.b, type,
                       static_cast<int>(p.b_stride), p.a, type, static_cast<int>(p.a_stride), &keep,
                       p.c, CUDA_R_32F, static_cast<int>(p.c_stride), CUBLAS_COMPUTE_32F,
                       CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx");
}

}  // namespace thimble::cuda
