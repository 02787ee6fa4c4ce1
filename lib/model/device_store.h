// SPDX-License-Identifier: Apache-2.0
// Weights of a model of which some units are computed on a CUDA device: in device memory for good,
// or in pinned host memory, from where they are copied into one of two slots on the device while
// the unit before is at work. The other units lie in host memory, the
// embedding among them unless it is the matrix of a head that is there for good.
#pragma once

#include "model/store.h"
#include "ops/cuda_context.h"

namespace thimble {

enum class UnitPlace : std::uint8_t { kHost, kDevice, kStreamed };

struct DevicePlan {
    std::vector<UnitPlace> units;      // in the order of units_of()
    std::uint64_t resident_bytes = 0;  // of device memory
    std::uint64_t slot_bytes = 0;      // of device memory, all slots
    std::uint64_t pinned_bytes = 0;    // of host memory: streamed units
    std::uint64_t host_bytes = 0;      // of host memory: the other units
    std::uint64_t staging_bytes = 0;   // of host memory, while loading
    [[nodiscard]] std::uint64_t device_bytes() const noexcept {
        return resident_bytes + slot_bytes;
    }
    [[nodiscard]] std::int64_t count(UnitPlace place) const noexcept;
};

// The head and the first `device_layers` layers on the device, as many of them for good as
// `most_bytes` of device memory hold; where nothing fits, the least that will do. No layers: the
// head stays on the host, too.
[[nodiscard]] DevicePlan plan_device_store(const ModelSource& source, const Exec& host, bool repack,
                                           std::int64_t device_layers, std::uint64_t most_bytes);
[[nodiscard]] std::unique_ptr<WeightStore> make_device_store(const ModelSource& source,
                                                             CudaContext& cuda, bool repack,
                                                             const DevicePlan& plan);

}  // namespace thimble
