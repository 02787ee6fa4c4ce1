// SPDX-License-Identifier: Apache-2.0
#include "train/slot_store.h"

#include <algorithm>
#include <cstring>

namespace thimble::train {
namespace {

constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 63) & ~std::size_t{63}; }

class MemorySlots final : public SlotStore {
  public:
    MemorySlots(const ParameterSet& parameters, const Optimizer& optimizer,
                const std::vector<Chunk>& chunks)
        : memory_(memory_slot_bytes(parameters, optimizer), Purpose::kOptimizer) {
        if (memory_) std::memset(memory_.data(), 0, memory_.bytes());
        std::vector<SlotStore::Slots> begins;
        std::size_t used = 0;
        for (const Parameter& p : parameters.items()) {
            Slots& begin = begins.emplace_back();
            std::size_t s = 0;
            for (const SlotInfo& slot : optimizer.slots(p.info)) {
                begin[s++] = memory_.data() + used;
                used += aligned(slot.bytes(p.info.elements()));
            }
        }
        for (const Chunk& chunk : chunks) {
            Slots& slots = chunks_.emplace_back();
            std::size_t s = 0;
            for (const SlotInfo& slot : optimizer.slots(parameters.items()[chunk.parameter].info)) {
                slots[s] = begins[chunk.parameter][s] + slot.bytes(chunk.first);
                ++s;
            }
        }
    }

    Slots acquire(std::size_t chunk) override { return chunks_[chunk]; }
    void release(std::size_t) override {}

  private:
    Buffer memory_;
    std::vector<Slots> chunks_;
};

}  // namespace

std::vector<Chunk> chunks_of(const ParameterSet& parameters, const Optimizer& optimizer,
                             std::int64_t elements) {
    std::vector<Chunk> chunks;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
        const ParameterInfo& info = parameters.items()[i].info;
        const std::int64_t tile = optimizer.tile_elements(info);
        const std::int64_t step = std::max<std::int64_t>(elements / tile, 1) * tile;
        for (std::int64_t first = 0; first < info.elements(); first += step)
            chunks.push_back({i, first, std::min(step, info.elements() - first)});
    }
    return chunks;
}

std::size_t memory_slot_bytes(const ParameterSet& parameters, const Optimizer& optimizer) {
    std::size_t sum = 0;
    for (const Parameter& p : parameters.items()) {
        for (const SlotInfo& slot : optimizer.slots(p.info))
            sum += aligned(slot.bytes(p.info.elements()));
    }
    return sum;
}

std::unique_ptr<SlotStore> make_memory_slots(const ParameterSet& parameters,
                                             const Optimizer& optimizer,
                                             const std::vector<Chunk>& chunks) {
    return std::make_unique<MemorySlots>(parameters, optimizer, chunks);
}

}  // namespace thimble::train
