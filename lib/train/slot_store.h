// SPDX-License-Identifier: Apache-2.0
// Where the optimizer's state lies. Parameters are cut into chunks, which are updated in one fixed
// order, so that a store may read ahead and write behind.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "storage/page_cache.h"
#include "train/optimizer.h"
#include "train/parameters.h"

namespace thimble::train {

// Elements [first, first + count) of a parameter.
struct Chunk {
    std::size_t parameter = 0;
    std::int64_t first = 0, count = 0;
};
// Whole tiles of about `elements` elements each.
[[nodiscard]] std::vector<Chunk> chunks_of(const ParameterSet& parameters,
                                           const Optimizer& optimizer, std::int64_t elements);

class SlotStore {
  public:
    virtual ~SlotStore() = default;
    using Slots = std::array<std::byte*, kMaxSlots>;
    // A chunk's part of each slot, at rest until release().
    [[nodiscard]] virtual Slots acquire(std::size_t chunk) = 0;
    virtual void release(std::size_t chunk) = 0;  // changed
};

// All of it in memory, zero at first.
[[nodiscard]] std::unique_ptr<SlotStore> make_memory_slots(const ParameterSet& parameters,
                                                           const Optimizer& optimizer,
                                                           const std::vector<Chunk>& chunks);
[[nodiscard]] std::size_t memory_slot_bytes(const ParameterSet& parameters,
                                            const Optimizer& optimizer);

// On a tier, with a few chunks in memory: the same bits. Chunks may come in any order; those of an
// order that repeats are read ahead.
[[nodiscard]] std::unique_ptr<SlotStore> make_disk_slots(const ParameterSet& parameters,
                                                         const Optimizer& optimizer,
                                                         const std::vector<Chunk>& chunks,
                                                         storage::StorageTier& tier);
[[nodiscard]] storage::PageBytes disk_slot_bytes(const ParameterSet& parameters,
                                                 const Optimizer& optimizer,
                                                 const std::vector<Chunk>& chunks);

}  // namespace thimble::train
