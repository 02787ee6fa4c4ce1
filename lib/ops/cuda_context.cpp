// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda_context.h"

#include <cstring>

#include "core/error.h"
#include "tensor/device.h"

namespace thimble {

namespace {

// The device is opened before anything is made on it.
cuda::Stream opened_stream() {
    (void)cuda_device();
    return {};
}

}  // namespace

cuda::DeviceFacts cuda_device() {
    const cuda::DeviceFacts facts = on_device([] { return cuda::open_device(); });
    constexpr int kLeast = 80;
    if (facts.capability < kLeast) {
        throw Error(Exit::kUsage, "--device cuda",
                    std::string(facts.name) + " has compute capability " +
                        std::to_string(facts.capability / 10) + "." +
                        std::to_string(facts.capability % 10) + ", the kernels need 8.0",
                    "--device cpu needs none");
    }
    return facts;
}

CudaContext::CudaContext(const Exec& host)
    : host_(host),
      compute_(opened_stream()),
      driver_charge_(Tier::kRam, Purpose::kBaseline, cuda::driver_host_bytes()),
      blas_charge_(Tier::kVram, Purpose::kOther, cuda::Blas::kWorkspaceBytes),
      blas_(on_device([&] { return std::make_unique<cuda::Blas>(compute_); })),
      pinned_(kUploadBytes, Purpose::kIo, Place::kPinned),
      device_(kUploadBytes, Purpose::kIo, Place::kDevice) {}

CudaContext::~CudaContext() = default;

std::size_t CudaContext::device_bytes() noexcept {
    return cuda::Blas::kWorkspaceBytes + Buffer::charged_bytes(kUploadBytes, Place::kDevice);
}

void CudaContext::add_to_plan(Plan& plan) {
    plan.at(Tier::kVram, Purpose::kOther) += cuda::Blas::kWorkspaceBytes;
    plan.at(Tier::kVram, Purpose::kIo) += device_bytes() - cuda::Blas::kWorkspaceBytes;
    plan.at(Tier::kRam, Purpose::kBaseline) += cuda::driver_host_bytes();
    plan.at(Tier::kRam, Purpose::kIo) += Buffer::charged_bytes(kUploadBytes, Place::kPinned);
}

std::size_t CudaContext::place(std::size_t bytes) {
    const std::size_t rounded = (bytes + 255) & ~std::size_t{255};
    if (rounded > kUploadBytes)
        throw Error(Exit::kFailure, "upload", std::to_string(bytes) + " bytes are too many");
    if (used_ + rounded > kUploadBytes) {
        on_device([&] { compute_.wait(); });  // until all of it has been read
        used_ = 0;
    }
    const std::size_t at = used_;
    used_ += rounded;
    return at;
}

const void* CudaContext::upload(const void* from, std::size_t bytes) {
    const std::size_t at = place(bytes);
    std::byte* staged = pinned_.data() + at;
    std::byte* to = device_.data() + at;
    std::memcpy(staged, from, bytes);
    on_device([&] { cuda::copy_to_device(compute_, to, staged, bytes); });
    return to;
}

}  // namespace thimble
