// SPDX-License-Identifier: Apache-2.0
#include "kv/lane_memory.h"

#include <utility>

#include "core/checked.h"
#include "core/error.h"
#include "core/strings.h"

namespace thimble {
namespace {

[[noreturn]] void refuse(std::uint64_t bytes) {
    throw Error(Exit::kFailure, "memory", "the system refused " + format_bytes(bytes) + " for KV",
                "lower --ctx-size");
}

}  // namespace

std::size_t LaneMemory::committed_lane_bytes(std::size_t lane_bytes, PageSize page) noexcept {
    const std::size_t bytes = page_bytes(page);
    return (lane_bytes + bytes - 1) / bytes * bytes;
}

LaneMemory::LaneMemory(int lanes, std::size_t lane_bytes, PageSize page)
    : page_(page),
      lanes_(lanes),
      stride_(committed_lane_bytes(lane_bytes, page)),
      charge_(Tier::kRam, Purpose::kKv, 0) {
    const auto total = checked_mul(stride_, static_cast<std::uint64_t>(lanes));
    if (!total) refuse(UINT64_MAX);
    if (*total == 0) return;
    range_ = LanePool::process().take(static_cast<std::size_t>(lanes), stride_, page);
    if (range_ == nullptr) refuse(*total);
    base_ = range_->base;
}

LaneMemory::~LaneMemory() {
    if (range_ != nullptr) LanePool::process().give(range_, charge_);
}

void LaneMemory::swap(LaneMemory& other) noexcept {
    std::swap(page_, other.page_);
    std::swap(lanes_, other.lanes_);
    std::swap(stride_, other.stride_);
    std::swap(base_, other.base_);
    std::swap(range_, other.range_);
    std::swap(charge_, other.charge_);
}

void LaneMemory::resize(std::size_t lane_bytes) {
    for (int i = 0; i < lanes_; ++i) resize(i, lane_bytes);
}

void LaneMemory::resize(int lane, std::size_t lane_bytes) {
    const std::size_t wanted = committed_lane_bytes(lane_bytes, page_);
    const std::size_t committed = committed_bytes(lane);
    if (wanted == committed) return;
    const auto i = static_cast<std::size_t>(lane);
    if (wanted < committed) {
        LanePool::process().shrink(*range_, i, wanted, charge_);
    } else if (!LanePool::process().grow(*range_, i, wanted, charge_)) {
        refuse(charge_.bytes() + (wanted - committed));
    }
}

}  // namespace thimble
