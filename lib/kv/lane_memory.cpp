// SPDX-License-Identifier: Apache-2.0
#include "kv/lane_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include "core/checked.h"
#include "core/error.h"
#include "core/strings.h"

namespace thimble {
namespace {

std::size_t page_bytes() {
    static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return bytes;
}

[[noreturn]] void refuse(std::uint64_t bytes) {
    throw Error(Exit::kFailure, "memory", "the system refused " + format_bytes(bytes) + " for KV",
                "lower --ctx-size");
}

}  // namespace

std::size_t LaneMemory::committed_lane_bytes(std::size_t lane_bytes) noexcept {
    const std::size_t page = page_bytes();
    return (lane_bytes + page - 1) / page * page;
}

LaneMemory::LaneMemory(int lanes, std::size_t lane_bytes)
    : lanes_(lanes),
      stride_(committed_lane_bytes(lane_bytes)),
      charge_(Tier::kRam, Purpose::kKv, 0) {
    const auto total = checked_mul(stride_, static_cast<std::uint64_t>(lanes));
    if (!total) refuse(UINT64_MAX);
    if (*total == 0) return;
    // Without access rights the range costs no memory and counts against no data limit.
    void* p = mmap(nullptr, *total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) refuse(*total);
    base_ = static_cast<std::byte*>(p);
}

LaneMemory::~LaneMemory() {
    if (base_ != nullptr) munmap(base_, stride_ * static_cast<std::size_t>(lanes_));
}

void LaneMemory::resize(std::size_t lane_bytes) {
    const std::size_t wanted = committed_lane_bytes(lane_bytes);
    if (wanted == committed_) return;
    const auto lanes = static_cast<std::size_t>(lanes_);
    if (wanted > committed_) {
        charge_.resize(wanted * lanes);
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            std::byte* begin = base_ + lane * stride_ + committed_;
            if (mprotect(begin, wanted - committed_, PROT_READ | PROT_WRITE) == 0) continue;
            charge_.resize(committed_ * lanes);
            refuse(wanted * lanes);
        }
        committed_ = wanted;
        return;
    }
    for (std::size_t lane = 0; lane < lanes; ++lane) {
        std::byte* begin = base_ + lane * stride_ + wanted;
        madvise(begin, committed_ - wanted, MADV_DONTNEED);
        mprotect(begin, committed_ - wanted, PROT_NONE);
    }
    committed_ = wanted;
    charge_.resize(wanted * lanes);
}

}  // namespace thimble
