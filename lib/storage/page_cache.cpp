// SPDX-License-Identifier: Apache-2.0
#include "storage/page_cache.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace thimble::storage {
namespace {

std::vector<std::size_t> aligned(std::vector<std::size_t> sizes) {
    for (std::size_t& size : sizes) size = StorageTier::aligned(size);
    return sizes;
}
std::uint64_t sum(const std::vector<std::size_t>& sizes) {
    return std::accumulate(sizes.begin(), sizes.end(), std::uint64_t{0});
}
std::size_t largest(const std::vector<std::size_t>& sizes) {
    return sizes.empty() ? 0 : *std::max_element(sizes.begin(), sizes.end());
}

}  // namespace

PageCache::PageCache(StorageTier& tier, const std::vector<std::size_t>& sizes, std::size_t seats,
                     Purpose purpose)
    : tier_(tier),
      sizes_(aligned(sizes)),
      extent_(tier.allocate(sum(sizes_), purpose)),
      seat_bytes_(largest(sizes_)),
      memory_(std::min(seats, sizes.size()) * seat_bytes_, purpose),
      seats_(std::min(seats, sizes.size())),
      written_(sizes.size(), false) {
    std::uint64_t offset = 0;
    for (const std::size_t size : sizes_) {
        offsets_.push_back(offset);
        offset += size;
    }
}

PageBytes PageCache::bytes(const std::vector<std::size_t>& sizes, std::size_t seats) {
    const std::vector<std::size_t> whole = aligned(sizes);
    return {TransferBuffer::charged_bytes(std::min(seats, sizes.size()) * largest(whole)),
            sum(whole)};
}

std::span<std::byte> PageCache::memory_of(const Seat& seat) {
    const auto place = static_cast<std::size_t>(&seat - seats_.data());
    return {memory_.data() + place * seat_bytes_, sizes_[seat.page]};
}

PageCache::Seat* PageCache::find(std::size_t page) {
    for (Seat& seat : seats_)
        if (seat.page == page) return &seat;
    return nullptr;
}

// The seat of a page, with it or with it on the way.
PageCache::Seat& PageCache::fetch(std::size_t page) {
    Seat* seat = find(page);
    if (seat == nullptr) {
        for (Seat& other : seats_) {
            const bool older = seat == nullptr || other.touched < seat->touched;
            if (other.users == 0 && older) seat = &other;
        }
        tier_.wait(seat->ticket);
        seat->page = page;
        seat->ticket = {};
        const std::span<std::byte> memory = memory_of(*seat);
        if (written_[page]) {
            seat->ticket = tier_.read(extent_, offsets_[page], memory);
        } else if (!memory.empty()) {
            std::memset(memory.data(), 0, memory.size());
        }
    }
    seat->touched = ++clock_;
    return *seat;
}

void PageCache::prefetch(std::size_t page) { (void)fetch(page); }

std::byte* PageCache::acquire(std::size_t page) {
    Seat& seat = fetch(page);
    tier_.wait(seat.ticket);
    ++seat.users;
    return memory_of(seat).data();
}

void PageCache::release(std::size_t page) {
    Seat& seat = *find(page);
    seat.touched = ++clock_;
    if (--seat.users > 0 || !seat.changed) return;
    seat.changed = false;
    written_[page] = true;
    seat.ticket = tier_.write(extent_, offsets_[page], memory_of(seat));
}

}  // namespace thimble::storage
