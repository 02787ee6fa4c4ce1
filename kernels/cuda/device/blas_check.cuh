// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublas_v2.h>

#include "kernels/cuda/device/launch.cuh"

namespace thimble::cuda {

inline void check(cublasStatus_t status, const char* what) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    char text[160];
    std::snprintf(text, sizeof text, "%s: %s", what, cublasGetStatusString(status));
    throw Failure(Failure::Kind::kBroken, text);
}

}  // namespace thimble::cuda
