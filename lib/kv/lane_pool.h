// SPDX-License-Identifier: Apache-2.0
// Address ranges of LaneMemory and the pages that its owners gave up, kept for the next who wants
// the like: a sequence that is cut and grows again, a policy that takes a token in and gives one
// up, forks that open and close cost neither system calls nor page faults.
//
// What is kept is bounded, per lane and in all, stays charged (to Purpose::kOther) and goes back to
// the system as soon as the ledger would refuse a charge or its peak would rise.
//
// Source: "Magazines and Vmem: Extending the Slab Allocator to Many CPUs and Arbitrary Resources"
// (2001) for the depot of constructed objects, "vAttention" (2024) for the ranges.
// differs: no caches per thread. The engine allocates on the thread that calls it, and there alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "core/ledger.h"

namespace thimble {

enum class PageSize : std::uint8_t {
    kBase,  // the system's
    kHuge,  // 2 MiB, as far as the system has them: fewer misses, more memory at a lane's end
};
[[nodiscard]] std::size_t page_bytes(PageSize page) noexcept;

// Lanes of equal stride in one reserved range. A lane's first `used` bytes are its owner's, those
// up to `ready` are spare pages, behind them nothing may be touched.
struct LaneRange {
    PageSize page = PageSize::kBase;
    std::size_t stride = 0, mapped = 0;
    std::byte *base = nullptr, *map = nullptr;
    std::vector<std::size_t> used, ready;

    [[nodiscard]] std::byte* lane(std::size_t i) const noexcept { return base + i * stride; }
    [[nodiscard]] std::size_t spare(std::size_t i) const noexcept { return ready[i] - used[i]; }
};

class LanePool {
  public:
    // Of a lane that goes on, or one page; of one that is emptied, everything. Closed ranges are
    // kept if no lane has more: forks' tails; else the next fork would sit on a whole text's pages.
    static constexpr std::size_t kSpareLaneBytes = std::size_t{16} << 10;
    static constexpr std::size_t kSpareBytes = std::size_t{32} << 20;  // of all lanes
    static constexpr std::size_t kClosedRanges = 512;

    static LanePool& process();
    ~LanePool();

    // A range with nothing used. Null: the system refuses.
    [[nodiscard]] LaneRange* take(std::size_t lanes, std::size_t stride, PageSize page);
    void give(LaneRange* range, Charge& charge) noexcept;
    // Sizes in whole pages. `charge` is for what is used. Throws kOverBudget; false: the system
    // refuses. Either leaves the lane as it was.
    [[nodiscard]] bool grow(LaneRange& range, std::size_t lane, std::size_t bytes, Charge& charge);
    void shrink(LaneRange& range, std::size_t lane, std::size_t bytes, Charge& charge) noexcept;

    // Gives spare pages back until so many bytes have gone; all: addresses too.
    void trim(std::uint64_t bytes = UINT64_MAX) noexcept;
    [[nodiscard]] std::uint64_t spare_bytes() const noexcept;

  private:
    class Lock;

    LanePool();
    void drop(LaneRange& range, std::size_t lane, std::size_t ready) noexcept;
    bool open(LaneRange& range, std::size_t lane, std::size_t bytes) noexcept;
    bool keep(std::uint64_t bytes, std::uint64_t otherwise) noexcept;
    void trim_lanes(LaneRange& range, std::uint64_t bytes) noexcept;
    void trim_all(std::uint64_t bytes) noexcept;

    mutable std::mutex mutex_;
    std::vector<std::unique_ptr<LaneRange>> live_, closed_;
    Charge spare_;
};

}  // namespace thimble
