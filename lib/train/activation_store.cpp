// SPDX-License-Identifier: Apache-2.0
#include "train/activation_store.h"

#include <algorithm>
#include <array>
#include <vector>

#include "storage/transfer_buffer.h"

namespace thimble::train {
namespace {

using storage::StorageTier;
using storage::Ticket;
using storage::TransferBuffer;

class MemoryActivations final : public ActivationStore {
  public:
    MemoryActivations(std::size_t pieces, std::size_t piece_bytes, Place place)
        : piece_bytes_(piece_bytes), memory_(pieces * piece_bytes, Purpose::kActivations, place) {}

    std::byte* room(std::size_t piece) override { return memory_.data() + piece * piece_bytes_; }
    void put(std::size_t, std::size_t) override {}
    std::byte* take(std::size_t piece) override { return room(piece); }
    void drop(std::size_t) override {}

  private:
    std::size_t piece_bytes_;
    Buffer memory_;
};

constexpr std::size_t kSeats = 3;  // one in use, two on the way

std::size_t seats_for(std::size_t pieces) { return std::min(kSeats, pieces); }

class DiskActivations final : public ActivationStore {
  public:
    DiskActivations(std::size_t pieces, std::size_t piece_bytes, StorageTier& tier)
        : tier_(tier),
          seats_(seats_for(pieces)),
          piece_bytes_(StorageTier::aligned(piece_bytes)),
          extent_(tier.allocate((pieces - seats_) * piece_bytes_, Purpose::kActivations)),
          memory_(seats_ * piece_bytes_, Purpose::kActivations),
          put_bytes_(pieces, 0) {}
    ~DiskActivations() override { tier_.drain(); }
    DiskActivations(const DiskActivations&) = delete;
    DiskActivations& operator=(const DiskActivations&) = delete;

    std::byte* room(std::size_t piece) override {
        tier_.wait(tickets_[piece % seats_]);
        return memory_.data() + piece % seats_ * piece_bytes_;
    }
    void put(std::size_t piece, std::size_t bytes) override {
        put_bytes_[piece] = StorageTier::aligned(bytes);
        if (leaves(piece))
            tickets_[piece % seats_] = tier_.write(extent_, at(piece), memory(piece));
    }
    std::byte* take(std::size_t piece) override { return room(piece); }
    void drop(std::size_t piece) override {
        if (piece < seats_) return;
        // The place is the next one's but two.
        const std::size_t next = piece - seats_;
        tickets_[next % seats_] = tier_.read(extent_, at(next), memory(next));
    }

  private:
    // Another piece takes its place.
    [[nodiscard]] bool leaves(std::size_t piece) const {
        return piece + seats_ < put_bytes_.size();
    }
    [[nodiscard]] std::uint64_t at(std::size_t piece) const { return piece * piece_bytes_; }
    [[nodiscard]] std::span<std::byte> memory(std::size_t piece) {
        return {memory_.data() + piece % seats_ * piece_bytes_, put_bytes_[piece]};
    }

    StorageTier& tier_;
    std::size_t seats_, piece_bytes_;
    storage::Extent extent_;
    TransferBuffer memory_;
    std::vector<std::size_t> put_bytes_;  // of each piece, in this pass
    std::array<Ticket, kSeats> tickets_;
};

}  // namespace

std::unique_ptr<ActivationStore> make_memory_activations(std::size_t pieces,
                                                         std::size_t piece_bytes, Place place) {
    return std::make_unique<MemoryActivations>(pieces, piece_bytes, place);
}

ActivationBytes memory_activation_bytes(std::size_t pieces, std::size_t piece_bytes, Place place) {
    const std::size_t bytes = Buffer::charged_bytes(pieces * piece_bytes, place);
    return place == Place::kDevice ? ActivationBytes{0, bytes, 0} : ActivationBytes{bytes, 0, 0};
}

std::unique_ptr<ActivationStore> make_disk_activations(std::size_t pieces, std::size_t piece_bytes,
                                                       StorageTier& tier) {
    if (pieces == 0) return make_memory_activations(0, 0, Place::kHost);
    return std::make_unique<DiskActivations>(pieces, piece_bytes, tier);
}

ActivationBytes disk_activation_bytes(std::size_t pieces, std::size_t piece_bytes) {
    const std::size_t bytes = StorageTier::aligned(piece_bytes);
    return {TransferBuffer::charged_bytes(seats_for(pieces) * bytes), 0,
            (pieces - seats_for(pieces)) * bytes};
}

}  // namespace thimble::train
