// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/blas.h"

#include <cublas_v2.h>

#include "kernels/cuda/device/blas_check.cuh"
#include "kernels/cuda/memory.h"

namespace thimble::cuda {

Blas::Blas(Stream& stream) {
    workspace_ = allocate_device(kWorkspaceBytes);
    cublasHandle_t handle = nullptr;
    check(cublasCreate(&handle), "cublasCreate");
    handle_ = handle;
    check(cublasSetStream(handle, raw(stream)), "cublasSetStream");
    check(cublasSetWorkspace(handle, workspace_, kWorkspaceBytes), "cublasSetWorkspace");
}

std::size_t driver_host_bytes() noexcept {
#ifdef THIMBLE_CUDA_EMULATED
    return 0;
#else
    return std::size_t{360} << 20;
#endif
}

Blas::~Blas() {
    if (handle_ != nullptr) (void)cublasDestroy(static_cast<cublasHandle_t>(handle_));
    free_device(workspace_);
}

}  // namespace thimble::cuda
