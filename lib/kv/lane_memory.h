// SPDX-License-Identifier: Apache-2.0
// One reserved address range cut into equal lanes (one per KV head). Each lane is contiguous and
// holds memory from its start only as far as it is committed; committed pages are charged to the
// ledger exactly and go back to the system when given up, but for the few that LanePool keeps
// ("vAttention: Dynamic Memory Management for Serving LLMs without PagedAttention", 2024, on the
// CPU's page tables). The contents of bytes just made usable are unspecified.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/ledger.h"
#include "kv/lane_pool.h"

namespace thimble {

class LaneMemory {
  public:
    LaneMemory() = default;
    // Reserves addresses only; nothing is charged. Error(kFailure) if the system refuses.
    LaneMemory(int lanes, std::size_t lane_bytes, PageSize page = PageSize::kBase);
    ~LaneMemory();
    LaneMemory(LaneMemory&& other) noexcept { swap(other); }
    LaneMemory& operator=(LaneMemory&& other) noexcept {
        swap(other);
        return *this;
    }

    // Makes the first `lane_bytes` bytes of every lane, or of one, usable and gives the rest back.
    void resize(std::size_t lane_bytes);
    void resize(int lane, std::size_t lane_bytes);

    [[nodiscard]] std::byte* data() const noexcept { return base_; }
    [[nodiscard]] std::byte* lane(int i) const noexcept {
        return base_ + static_cast<std::size_t>(i) * stride_;
    }
    [[nodiscard]] std::size_t lane_stride() const noexcept { return stride_; }  // bytes
    [[nodiscard]] std::uint64_t committed_bytes() const noexcept { return charge_.bytes(); }
    [[nodiscard]] std::size_t committed_bytes(int lane) const noexcept {
        return range_ == nullptr ? 0 : range_->used[static_cast<std::size_t>(lane)];
    }
    // What resize(lane_bytes) commits per lane: whole pages.
    [[nodiscard]] static std::size_t committed_lane_bytes(std::size_t lane_bytes,
                                                          PageSize page = PageSize::kBase) noexcept;

  private:
    void swap(LaneMemory& other) noexcept;

    PageSize page_ = PageSize::kBase;
    int lanes_ = 0;
    std::size_t stride_ = 0;
    std::byte* base_ = nullptr;
    LaneRange* range_ = nullptr;  // of the pool; null: of no bytes
    Charge charge_;
};

}  // namespace thimble
