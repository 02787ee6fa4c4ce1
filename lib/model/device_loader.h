// SPDX-License-Identifier: Apache-2.0
// Reads weights piece by piece into device memory, or into pinned memory from where they go there,
// in the form in which the device multiplies by them (device_form.h).
#pragma once

#include "model/device_form.h"
#include "ops/cuda_context.h"

namespace thimble {

// What they take there, at a multiple of 256 bytes.
[[nodiscard]] std::size_t device_matrix_bytes(const SourceTensor& tensor);
[[nodiscard]] std::size_t device_vector_bytes(const SourceTensor& tensor);

class DeviceLoader {
  public:
    // Of the largest of the tensors that are to be read.
    [[nodiscard]] static std::size_t staging_bytes(const SourceTensor& tensor);
    DeviceLoader(const ModelSource& source, CudaContext& cuda, std::size_t staging_bytes)
        : source_(source), cuda_(cuda), staging_(staging_bytes, Purpose::kIo, Place::kPinned) {}

    // What is not finite is Error(kBadData). `place`: where `to` lies, kDevice or kPinned.
    void load(const SourceTensor& tensor, const PackedView& to, Place place);
    void load(const SourceTensor& tensor, View to, Place place);

  private:
    void put(std::byte* to, const void* from, std::size_t bytes, Place place);

    const ModelSource& source_;
    CudaContext& cuda_;
    Buffer staging_;  // a piece as stored and, behind it, as the device has it
};

}  // namespace thimble
