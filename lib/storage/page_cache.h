// SPDX-License-Identifier: Apache-2.0
// Pages of a tier, a few of them in memory: those that come next are read ahead, those that were
// changed are written behind.
#pragma once

#include <vector>

#include "storage/transfer_buffer.h"

namespace thimble::storage {

struct PageBytes {
    std::size_t ram = 0;  // as the ledger counts them
    std::uint64_t disk = 0;
};

class PageCache {
  public:
    // `sizes` of the pages in bytes; at most `seats` of them are in memory. Pages are zero at
    // first: one that was never changed is not read.
    PageCache(StorageTier& tier, const std::vector<std::size_t>& sizes, std::size_t seats,
              Purpose purpose);
    ~PageCache() { tier_.drain(); }
    PageCache(const PageCache&) = delete;
    PageCache& operator=(const PageCache&) = delete;
    [[nodiscard]] static PageBytes bytes(const std::vector<std::size_t>& sizes, std::size_t seats);

    // Puts a page on its way into memory, in the place of the one that was touched longest ago. To
    // be called for pages in the order of their use, fewer than there are seats.
    void prefetch(std::size_t page);
    // The page in memory, at rest until as many releases.
    [[nodiscard]] std::byte* acquire(std::size_t page);
    // It differs from what the tier has.
    void change(std::size_t page) { find(page)->changed = true; }
    void release(std::size_t page);
    [[nodiscard]] std::size_t seats() const noexcept { return seats_.size(); }

  private:
    static constexpr std::size_t kNobody = SIZE_MAX;
    struct Seat {
        std::size_t page = kNobody;
        Ticket ticket;  // of its last transfer
        int users = 0;
        bool changed = false;
        std::uint64_t touched = 0;
    };
    [[nodiscard]] std::span<std::byte> memory_of(const Seat& seat);
    [[nodiscard]] Seat* find(std::size_t page);
    Seat& fetch(std::size_t page);

    StorageTier& tier_;
    std::vector<std::size_t> sizes_;      // aligned
    std::vector<std::uint64_t> offsets_;  // on the tier
    Extent extent_;
    std::size_t seat_bytes_ = 0;
    TransferBuffer memory_;
    std::vector<Seat> seats_;
    std::vector<bool> written_;  // else it is zero
    std::uint64_t clock_ = 0;
};

}  // namespace thimble::storage
