// SPDX-License-Identifier: Apache-2.0
#include "cublas_v2.h"

#include <vector>

#include "kernels/emu/device_memory.h"
#include "kernels/layout/half.h"

struct ThimbleEmuBlas {
    cudaStream_t stream = nullptr;
};

namespace thimble::emu {
void count_handle(int by);
}

namespace {

std::size_t size_of(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }

float element(const void* p, cudaDataType_t type, std::size_t i) {
    const auto* bytes = static_cast<const std::byte*>(p) + i * size_of(type);
    if (type == CUDA_R_32F) {
        float f;
        std::memcpy(&f, bytes, sizeof f);
        return f;
    }
    std::uint16_t h;
    std::memcpy(&h, bytes, sizeof h);
    return type == CUDA_R_16F ? thimble::f16_to_f32(h) : thimble::bf16_to_f32(h);
}

// The matrix as floats, [outer, k] with k contiguous.
std::vector<float> rows_of(const void* p, cudaDataType_t type, int ld, int outer, int k,
                           bool k_contiguous) {
    std::vector<float> out(static_cast<std::size_t>(outer) * static_cast<std::size_t>(k));
    for (int o = 0; o < outer; ++o) {
        for (int i = 0; i < k; ++i) {
            const std::size_t at = k_contiguous ? static_cast<std::size_t>(o) * ld + i
                                                : static_cast<std::size_t>(i) * ld + o;
            out[static_cast<std::size_t>(o) * k + i] = element(p, type, at);
        }
    }
    return out;
}

}  // namespace

const char* cublasGetStatusString(cublasStatus_t status) {
    switch (status) {
        case CUBLAS_STATUS_SUCCESS:
            return "success";
        case CUBLAS_STATUS_NOT_INITIALIZED:
            return "the library was not initialized";
        case CUBLAS_STATUS_INVALID_VALUE:
            return "an invalid value";
        case CUBLAS_STATUS_EXECUTION_FAILED:
            return "the device failed";
    }
    return "unknown status";
}
cublasStatus_t cublasCreate(cublasHandle_t* handle) {
    *handle = new ThimbleEmuBlas;
    thimble::emu::count_handle(1);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy(cublasHandle_t handle) {
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    delete handle;
    thimble::emu::count_handle(-1);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void* workspace, std::size_t bytes) {
    return thimble::emu::is_device(workspace, bytes) ? CUBLAS_STATUS_SUCCESS
                                                     : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                            int m, int n, int k, const void* alpha, const void* a,
                            cudaDataType_t type_a, int lda, const void* b, cudaDataType_t type_b,
                            int ldb, const void* beta, void* c, cudaDataType_t type_c, int ldc,
                            cublasComputeType_t, cublasGemmAlgo_t) {
    if (handle->stream == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    const bool a_k = op_a == CUBLAS_OP_T, b_k = op_b == CUBLAS_OP_N;
    if (m < 0 || n < 0 || k < 0 || lda < (a_k ? k : m) || ldb < (b_k ? k : n) || ldc < m ||
        type_a != type_b || type_c != CUDA_R_32F)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (m == 0 || n == 0) return CUBLAS_STATUS_SUCCESS;
    const auto bytes = [](int ld, int count, int last, cudaDataType_t type) {
        return (static_cast<std::size_t>(ld) * static_cast<std::size_t>(count - 1) +
                static_cast<std::size_t>(last)) *
               size_of(type);
    };
    if (k > 0 && (!thimble::emu::is_device(a, bytes(lda, a_k ? m : k, a_k ? k : m, type_a)) ||
                  !thimble::emu::is_device(b, bytes(ldb, b_k ? n : k, b_k ? k : n, type_b)) ||
                  !thimble::emu::is_device(c, bytes(ldc, n, m, type_c)))) {
        thimble::emu::note_fault(thimble::emu::FaultKind::kGlobalAccess,
                                 "cublasGemmEx: a matrix is not inside an allocation");
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
    thimble::emu::enqueue(handle->stream, [=] {
        const std::vector<float> left = rows_of(a, type_a, lda, m, k, a_k);
        const std::vector<float> right = rows_of(b, type_b, ldb, n, k, b_k);
        auto* out = static_cast<float*>(c);
        for (int j = 0; j < n; ++j) {
            for (int i = 0; i < m; ++i) {
                const float* x = left.data() + static_cast<std::size_t>(i) * k;
                const float* y = right.data() + static_cast<std::size_t>(j) * k;
                float sums[8] = {};
                int at = 0;
                for (; at + 8 <= k; at += 8) {
                    for (int l = 0; l < 8; ++l) sums[l] += x[at + l] * y[at + l];
                }
                for (; at < k; ++at) sums[0] += x[at] * y[at];
                float sum = 0;
                for (const float s : sums) sum += s;
                float& to = out[static_cast<std::size_t>(j) * ldc + i];
                to = keep == 0 ? scale * sum : scale * sum + keep * to;
            }
        }
        return true;
    });
    return CUBLAS_STATUS_SUCCESS;
}
