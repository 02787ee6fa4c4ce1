// SPDX-License-Identifier: Apache-2.0
// The optimizer's state on a tier: a few chunks are in memory, those that come next are read ahead
// and those that were updated are written behind. "ZeRO-Infinity: Breaking the GPU Memory Wall for
// Extreme Scale Deep Learning" (2021); "QLoRA: Efficient Finetuning of Quantized LLMs" (2023) has
// pages in place of chunks.
// differs: the order of chunks is not given, it is that of the step before.
#include "storage/page_cache.h"
#include "train/slot_store.h"

namespace thimble::train {
namespace {

using storage::PageCache;

constexpr std::size_t kSeats = 4;  // chunks in memory
constexpr std::size_t kAhead = 2;  // of them read ahead

// Where the slots of a chunk lie, from its beginning.
struct Layout {
    std::array<std::size_t, kMaxSlots> begins{};
    std::size_t bytes = 0;
};

std::vector<Layout> layouts_of(const ParameterSet& parameters, const Optimizer& optimizer,
                               const std::vector<Chunk>& chunks) {
    std::vector<Layout> layouts;
    for (const Chunk& chunk : chunks) {
        Layout& layout = layouts.emplace_back();
        std::size_t s = 0;
        for (const SlotInfo& slot : optimizer.slots(parameters.items()[chunk.parameter].info)) {
            layout.begins[s++] = layout.bytes;
            const std::size_t bytes =
                slot.bytes(chunk.first + chunk.count) - slot.bytes(chunk.first);
            layout.bytes += (bytes + 63) & ~std::size_t{63};
        }
    }
    return layouts;
}

std::vector<std::size_t> sizes_of(const std::vector<Layout>& layouts) {
    std::vector<std::size_t> sizes;
    for (const Layout& layout : layouts) sizes.push_back(layout.bytes);
    return sizes;
}

class DiskSlots final : public SlotStore {
  public:
    DiskSlots(std::vector<Layout> layouts, storage::StorageTier& tier)
        : layouts_(std::move(layouts)),
          pages_(tier, sizes_of(layouts_), kSeats, Purpose::kOptimizer) {
        for (std::size_t c = 0; c < layouts_.size(); ++c)
            next_.push_back((c + 1) % layouts_.size());
    }

    Slots acquire(std::size_t chunk) override;
    void release(std::size_t chunk) override {
        pages_.change(chunk);
        pages_.release(chunk);
    }

  private:
    std::vector<Layout> layouts_;
    PageCache pages_;
    std::vector<std::size_t> next_;  // the chunk that came after each the last time
    std::size_t last_ = SIZE_MAX;    // acquired
};

SlotStore::Slots DiskSlots::acquire(std::size_t chunk) {
    if (last_ != SIZE_MAX) next_[last_] = chunk;
    last_ = chunk;
    std::size_t ahead = chunk;
    for (std::size_t i = 0; i <= kAhead && i < pages_.seats(); ++i) {
        pages_.prefetch(ahead);
        ahead = next_[ahead];
    }
    std::byte* const memory = pages_.acquire(chunk);
    Slots slots{};
    for (std::size_t s = 0; s < kMaxSlots; ++s) slots[s] = memory + layouts_[chunk].begins[s];
    return slots;
}

}  // namespace

storage::PageBytes disk_slot_bytes(const ParameterSet& parameters, const Optimizer& optimizer,
                                   const std::vector<Chunk>& chunks) {
    return PageCache::bytes(sizes_of(layouts_of(parameters, optimizer, chunks)), kSeats);
}

std::unique_ptr<SlotStore> make_disk_slots(const ParameterSet& parameters,
                                           const Optimizer& optimizer,
                                           const std::vector<Chunk>& chunks,
                                           storage::StorageTier& tier) {
    return std::make_unique<DiskSlots>(layouts_of(parameters, optimizer, chunks), tier);
}

}  // namespace thimble::train
