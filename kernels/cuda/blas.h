// SPDX-License-Identifier: Apache-2.0
// A cuBLAS handle bound to one stream, with a workspace of its own so that results do not depend
// on what ran before. Throws Failure.
#pragma once

#include <cstddef>

#include "kernels/cuda/stream.h"

namespace thimble::cuda {

// Host memory that the driver and cuBLAS take of a process, about; nothing where they are emulated.
// 270 to 360 MiB were measured beside what we allocate ourselves, on an H100 with driver 580.
[[nodiscard]] std::size_t driver_host_bytes() noexcept;

class Blas {
  public:
    // Device memory that a handle takes; the caller accounts for it.
    static constexpr std::size_t kWorkspaceBytes = std::size_t{8} << 20;
    explicit Blas(Stream& stream);
    ~Blas();
    Blas(const Blas&) = delete;
    Blas& operator=(const Blas&) = delete;
    [[nodiscard]] void* handle() const noexcept { return handle_; }

  private:
    void* handle_ = nullptr;
    void* workspace_ = nullptr;
};

}  // namespace thimble::cuda
