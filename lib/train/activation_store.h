// SPDX-License-Identifier: Apache-2.0
// What a forward pass keeps for the backward pass: pieces of one size, put away in rising order and
// taken back in falling order.
#pragma once

#include <memory>

#include "storage/tier.h"
#include "tensor/buffer.h"

namespace thimble::train {

class ActivationStore {
  public:
    virtual ~ActivationStore() = default;
    // Where to make a piece.
    [[nodiscard]] virtual std::byte* room(std::size_t piece) = 0;
    // It is made, so many bytes of it.
    virtual void put(std::size_t piece, std::size_t bytes) = 0;
    // The piece as it was put.
    [[nodiscard]] virtual std::byte* take(std::size_t piece) = 0;
    // It is used up.
    virtual void drop(std::size_t piece) = 0;
};

struct ActivationBytes {
    std::size_t ram = 0, vram = 0;  // as the ledger counts them
    std::uint64_t disk = 0;
};

// In memory of either kind.
[[nodiscard]] std::unique_ptr<ActivationStore> make_memory_activations(std::size_t pieces,
                                                                       std::size_t piece_bytes,
                                                                       Place place);
[[nodiscard]] ActivationBytes memory_activation_bytes(std::size_t pieces, std::size_t piece_bytes,
                                                      Place place);

// On a tier, three pieces in memory: "SSDTrain: An Activation Offloading Framework to SSDs for
// Faster Large Language Model Training" (2024). The last pieces of a forward pass are the first of
// the backward pass: they never leave memory.
[[nodiscard]] std::unique_ptr<ActivationStore> make_disk_activations(std::size_t pieces,
                                                                     std::size_t piece_bytes,
                                                                     storage::StorageTier& tier);
[[nodiscard]] ActivationBytes disk_activation_bytes(std::size_t pieces, std::size_t piece_bytes);

}  // namespace thimble::train
