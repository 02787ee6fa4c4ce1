// SPDX-License-Identifier: Apache-2.0
#include "kv/lane_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <utility>

#include "core/checked.h"
#include "core/error.h"
#include "core/strings.h"

namespace thimble {
namespace {

constexpr std::size_t kHugeBytes = std::size_t{2} << 20;

std::size_t page_bytes(PageSize page) {
    static const auto base = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return page == PageSize::kHuge ? kHugeBytes : base;
}

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
      stride_(committed_lane_bytes(lane_bytes, page)),
      committed_(static_cast<std::size_t>(lanes)),
      charge_(Tier::kRam, Purpose::kKv, 0) {
    const auto total = checked_mul(stride_, static_cast<std::uint64_t>(lanes));
    if (!total) refuse(UINT64_MAX);
    if (*total == 0) return;
    // Without access rights the range costs no memory and counts against no data limit.
    mapped_ = *total + (page == PageSize::kHuge ? kHugeBytes : 0);
    void* p = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) refuse(*total);
    map_ = base_ = static_cast<std::byte*>(p);
    if (page != PageSize::kHuge) return;
    const auto at = reinterpret_cast<std::uintptr_t>(p);
    base_ += (kHugeBytes - at % kHugeBytes) % kHugeBytes;
    madvise(base_, *total, MADV_HUGEPAGE);  // a wish: without huge pages small ones do
}

LaneMemory::~LaneMemory() {
    if (map_ != nullptr) munmap(map_, mapped_);
}

void LaneMemory::swap(LaneMemory& other) noexcept {
    std::swap(page_, other.page_);
    std::swap(stride_, other.stride_);
    std::swap(mapped_, other.mapped_);
    std::swap(committed_, other.committed_);
    std::swap(base_, other.base_);
    std::swap(map_, other.map_);
    std::swap(charge_, other.charge_);
}

void LaneMemory::resize(std::size_t lane_bytes) {
    for (int i = 0; i < static_cast<int>(committed_.size()); ++i) resize(i, lane_bytes);
}

void LaneMemory::resize(int lane, std::size_t lane_bytes) {
    const std::size_t wanted = committed_lane_bytes(lane_bytes, page_);
    std::size_t& committed = committed_[static_cast<std::size_t>(lane)];
    if (wanted == committed) return;
    const std::uint64_t before = charge_.bytes();
    if (wanted > committed) {
        charge_.resize(before + (wanted - committed));
        if (mprotect(this->lane(lane) + committed, wanted - committed, PROT_READ | PROT_WRITE) !=
            0) {
            charge_.resize(before);
            refuse(before + (wanted - committed));
        }
    } else {
        std::byte* begin = this->lane(lane) + wanted;
        madvise(begin, committed - wanted, MADV_DONTNEED);
        mprotect(begin, committed - wanted, PROT_NONE);
        charge_.resize(before - (committed - wanted));
    }
    committed = wanted;
}

}  // namespace thimble
