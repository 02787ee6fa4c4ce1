// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/failure.h"

#include <cstring>

namespace thimble::cuda {

Failure::Failure(Kind kind, const char* what) noexcept : kind_(kind) {
    std::strncpy(what_, what, sizeof what_ - 1);
    what_[sizeof what_ - 1] = '\0';
}

}  // namespace thimble::cuda
