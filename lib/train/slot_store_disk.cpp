// SPDX-License-Identifier: Apache-2.0
// The optimizer's state on a tier: a few chunks are in memory, those that come next are read ahead
// and those that were updated are written behind. "ZeRO-Infinity: Breaking the GPU Memory Wall for
// Extreme Scale Deep Learning" (2021); "QLoRA: Efficient Finetuning of Quantized LLMs" (2023) has
// pages in place of chunks.
// differs: the order of chunks is not given, it is that of the step before; state that is still
// zero is not read.
#include <algorithm>
#include <cstring>

#include "storage/transfer_buffer.h"
#include "train/slot_store.h"

namespace thimble::train {
namespace {

using storage::StorageTier;
using storage::Ticket;
using storage::TransferBuffer;

constexpr std::size_t kSeats = 4;  // chunks in memory
constexpr std::size_t kAhead = 2;  // of them read ahead
constexpr std::size_t kNobody = SIZE_MAX;

// Where the slots of a chunk lie.
struct Layout {
    std::array<std::size_t, kMaxSlots> begins{};  // of each slot, from the chunk's
    std::size_t bytes = 0;                        // whole blocks of the tier
    std::uint64_t offset = 0;                     // on the tier
};

std::vector<Layout> layouts_of(const ParameterSet& parameters, const Optimizer& optimizer,
                               const std::vector<Chunk>& chunks) {
    std::vector<Layout> layouts;
    std::uint64_t offset = 0;
    for (const Chunk& chunk : chunks) {
        Layout& layout = layouts.emplace_back();
        std::size_t s = 0;
        for (const SlotInfo& slot : optimizer.slots(parameters.items()[chunk.parameter].info)) {
            layout.begins[s++] = layout.bytes;
            const std::size_t bytes =
                slot.bytes(chunk.first + chunk.count) - slot.bytes(chunk.first);
            layout.bytes += (bytes + 63) & ~std::size_t{63};
        }
        layout.bytes = StorageTier::aligned(layout.bytes);
        layout.offset = offset;
        offset += layout.bytes;
    }
    return layouts;
}

std::size_t most_bytes(const std::vector<Layout>& layouts) {
    std::size_t most = 0;
    for (const Layout& layout : layouts) most = std::max(most, layout.bytes);
    return most;
}
std::uint64_t all_bytes(const std::vector<Layout>& layouts) {
    return layouts.empty() ? 0 : layouts.back().offset + layouts.back().bytes;
}
std::size_t seats_for(const std::vector<Layout>& layouts) {
    return std::min(kSeats, layouts.size());
}

class DiskSlots final : public SlotStore {
  public:
    DiskSlots(std::vector<Layout> layouts, StorageTier& tier)
        : tier_(tier),
          layouts_(std::move(layouts)),
          extent_(tier.allocate(all_bytes(layouts_), Purpose::kOptimizer)),
          seat_bytes_(most_bytes(layouts_)),
          memory_(seats_for(layouts_) * seat_bytes_, Purpose::kOptimizer),
          seats_(seats_for(layouts_)),
          written_(layouts_.size(), false) {
        for (std::size_t c = 0; c < layouts_.size(); ++c)
            next_.push_back((c + 1) % layouts_.size());
    }
    ~DiskSlots() override { tier_.drain(); }
    DiskSlots(const DiskSlots&) = delete;
    DiskSlots& operator=(const DiskSlots&) = delete;

    Slots acquire(std::size_t chunk) override;
    void release(std::size_t chunk) override;

  private:
    struct Seat {
        std::size_t chunk = kNobody;
        Ticket ticket;  // of its last transfer
        bool in_use = false;
        std::uint64_t touched = 0;
    };
    [[nodiscard]] std::span<std::byte> memory_of(const Seat& seat) {
        const auto place = static_cast<std::size_t>(&seat - seats_.data());
        return {memory_.data() + place * seat_bytes_, layouts_[seat.chunk].bytes};
    }
    [[nodiscard]] Seat* find(std::size_t chunk) {
        for (Seat& seat : seats_)
            if (seat.chunk == chunk) return &seat;
        return nullptr;
    }
    Seat& fetch(std::size_t chunk);

    StorageTier& tier_;
    std::vector<Layout> layouts_;
    storage::Extent extent_;
    std::size_t seat_bytes_;
    TransferBuffer memory_;
    std::vector<Seat> seats_;
    std::vector<bool> written_;      // else the state is zero
    std::vector<std::size_t> next_;  // the chunk that came after each the last time
    std::size_t last_ = kNobody;     // acquired
    std::uint64_t clock_ = 0;
};

// The seat of a chunk, with it or with it on the way.
DiskSlots::Seat& DiskSlots::fetch(std::size_t chunk) {
    Seat* seat = find(chunk);
    if (seat == nullptr) {
        for (Seat& other : seats_) {
            const bool older = seat == nullptr || other.touched < seat->touched;
            if (!other.in_use && older) seat = &other;
        }
        tier_.wait(seat->ticket);
        seat->chunk = chunk;
        seat->ticket = {};
        const std::span<std::byte> memory = memory_of(*seat);
        if (written_[chunk]) {
            seat->ticket = tier_.read(extent_, layouts_[chunk].offset, memory);
        } else {
            std::memset(memory.data(), 0, memory.size());
        }
    }
    seat->touched = ++clock_;
    return *seat;
}

SlotStore::Slots DiskSlots::acquire(std::size_t chunk) {
    if (last_ != kNobody) next_[last_] = chunk;
    last_ = chunk;
    Seat& seat = fetch(chunk);
    seat.in_use = true;
    std::size_t ahead = next_[chunk];
    for (std::size_t i = 0; i < kAhead && i + 1 < seats_.size(); ++i) {
        fetch(ahead);
        ahead = next_[ahead];
    }
    tier_.wait(seat.ticket);
    const std::span<std::byte> memory = memory_of(seat);
    Slots slots{};
    for (std::size_t s = 0; s < kMaxSlots; ++s)
        slots[s] = memory.data() + layouts_[chunk].begins[s];
    return slots;
}

void DiskSlots::release(std::size_t chunk) {
    Seat& seat = *find(chunk);
    seat.in_use = false;
    seat.touched = ++clock_;
    written_[chunk] = true;
    seat.ticket = tier_.write(extent_, layouts_[chunk].offset, memory_of(seat));
}

}  // namespace

SlotBytes disk_slot_bytes(const ParameterSet& parameters, const Optimizer& optimizer,
                          const std::vector<Chunk>& chunks) {
    const std::vector<Layout> layouts = layouts_of(parameters, optimizer, chunks);
    return {TransferBuffer::charged_bytes(seats_for(layouts) * most_bytes(layouts)),
            all_bytes(layouts)};
}

std::unique_ptr<SlotStore> make_disk_slots(const ParameterSet& parameters,
                                           const Optimizer& optimizer,
                                           const std::vector<Chunk>& chunks, StorageTier& tier) {
    return std::make_unique<DiskSlots>(layouts_of(parameters, optimizer, chunks), tier);
}

}  // namespace thimble::train
