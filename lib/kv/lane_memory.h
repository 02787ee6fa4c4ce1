// SPDX-License-Identifier: Apache-2.0
// One reserved address range cut into equal lanes (one per KV head). Each lane is contiguous and
// holds memory from its start only as far as it is committed; committed pages are charged to the
// ledger exactly and go back to the system when given up.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/ledger.h"

namespace thimble {

class LaneMemory {
  public:
    // Reserves addresses only; nothing is charged. Error(kFailure) if the system refuses.
    LaneMemory(int lanes, std::size_t lane_bytes);
    ~LaneMemory();
    LaneMemory(const LaneMemory&) = delete;
    LaneMemory& operator=(const LaneMemory&) = delete;

    // Makes the first `lane_bytes` bytes of every lane usable and gives the rest back.
    void resize(std::size_t lane_bytes);

    [[nodiscard]] std::byte* data() const noexcept { return base_; }
    [[nodiscard]] std::size_t lane_stride() const noexcept { return stride_; }  // bytes
    [[nodiscard]] std::uint64_t committed_bytes() const noexcept { return charge_.bytes(); }
    // What resize(lane_bytes) commits per lane: whole pages.
    [[nodiscard]] static std::size_t committed_lane_bytes(std::size_t lane_bytes) noexcept;

  private:
    int lanes_;
    std::size_t stride_;
    std::size_t committed_ = 0;  // per lane
    std::byte* base_ = nullptr;
    Charge charge_;
};

}  // namespace thimble
