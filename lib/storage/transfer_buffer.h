// SPDX-License-Identifier: Apache-2.0
// Memory that tiers read into and write from: aligned as they want it.
#pragma once

#include "storage/tier.h"
#include "tensor/buffer.h"

namespace thimble::storage {

class TransferBuffer {
  public:
    TransferBuffer() = default;
    TransferBuffer(std::size_t bytes, Purpose purpose)
        : memory_(bytes > 0 ? bytes + StorageTier::kAlignment : 0, purpose) {}

    [[nodiscard]] std::byte* data() noexcept {
        const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
        return memory_.data() + (StorageTier::aligned(address) - address);
    }
    // For plans.
    [[nodiscard]] static std::size_t charged_bytes(std::size_t bytes) noexcept {
        return bytes > 0 ? Buffer::charged_bytes(bytes + StorageTier::kAlignment) : 0;
    }

  private:
    Buffer memory_;
};

}  // namespace thimble::storage
