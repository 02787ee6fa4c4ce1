// SPDX-License-Identifier: Apache-2.0
#include "ops/exec.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "ops/cuda_context.h"
#include "ops/dispatch.h"

namespace thimble {

std::byte* Workspace::take(std::size_t bytes) {
    const std::size_t rounded = (bytes + 63) & ~std::size_t{63};
    if (rounded > capacity_ - used_) {
        throw Error(Exit::kFailure, "workspace",
                    std::to_string(rounded) + " bytes wanted, " +
                        std::to_string(capacity_ - used_) + " of " + std::to_string(capacity_) +
                        " left: the plan was too small");
    }
    // Without memory: addresses that nothing may touch.
    std::byte* p = buffer_ ? buffer_.data() + used_ : reinterpret_cast<std::byte*>(64 + used_);
    used_ += rounded;
    peak_ = std::max(peak_, used_);
    return p;
}

View Workspace::take_view(DType dtype, std::int64_t rows, std::int64_t cols) {
    return {take(static_cast<std::size_t>(rows * cols) * size_of(dtype)), dtype, rows, cols, cols};
}

const Exec& Exec::host() const noexcept { return device == Device::kCuda ? cuda->host() : *this; }

const cpu::KernelTable& ops::kernels(Isa isa) {
#if defined(__x86_64__)
    if (isa == Isa::kAvx512) return cpu::avx512::kKernelTable;
    if (isa == Isa::kAvx2) return cpu::avx2::kKernelTable;
#endif
    require(isa == Isa::kPortable, "kernels", "this build has no kernels for that level");
    return cpu::portable::kKernelTable;
}

}  // namespace thimble
