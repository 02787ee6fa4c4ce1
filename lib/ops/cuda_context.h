// SPDX-License-Identifier: Apache-2.0
// What operations on a CUDA device share: its streams, cuBLAS, the way for small tables from host
// to device, and how parts of a step run on the host.
#pragma once

#include <memory>
#include <span>

#include "core/plan.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"
#include "ops/exec.h"

namespace thimble {

class CudaContext {
  public:
    // Opens the device; Error(kUsage) where there is none. `host` is how its share runs on the
    // host.
    explicit CudaContext(const Exec& host);
    ~CudaContext();

    [[nodiscard]] cuda::Stream& compute() noexcept { return compute_; }
    [[nodiscard]] cuda::Stream& copies() noexcept { return copies_; }
    [[nodiscard]] cuda::Blas& blas() noexcept { return *blas_; }
    [[nodiscard]] const Exec& host() const noexcept { return host_; }
    void set_host_workspace(Workspace* workspace) noexcept { host_.workspace = workspace; }

    // Bytes on the device, for what is put on the compute stream next; at most kUploadBytes.
    [[nodiscard]] const void* upload(const void* from, std::size_t bytes);
    template <class T>
    [[nodiscard]] const T* upload(std::span<const T> values) {
        return static_cast<const T*>(upload(values.data(), values.size_bytes()));
    }

    static constexpr std::size_t kUploadBytes = std::size_t{1} << 20;
    // Bytes there that what is put on the compute stream next may write; at most kUploadBytes.
    [[nodiscard]] void* scratch(std::size_t bytes) { return device_.data() + place(bytes); }

    // Charged while a context lives.
    static void add_to_plan(Plan& plan);
    [[nodiscard]] static std::size_t device_bytes() noexcept;

  private:
    // Where in both buffers so many bytes may lie: what lay there is read.
    [[nodiscard]] std::size_t place(std::size_t bytes);

    Exec host_;
    cuda::Stream compute_, copies_;
    Charge driver_charge_, blas_charge_;
    std::unique_ptr<cuda::Blas> blas_;
    Buffer pinned_, device_;
    std::size_t used_ = 0;
};

// The device's facts, without keeping anything open. Error(kUsage) where there is none, or one of a
// compute capability that has no kernels here.
[[nodiscard]] cuda::DeviceFacts cuda_device();

}  // namespace thimble
