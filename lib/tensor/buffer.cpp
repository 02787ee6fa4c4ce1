// SPDX-License-Identifier: Apache-2.0
#include "tensor/buffer.h"

#include <sys/mman.h>

#include <new>

#include "core/error.h"
#include "core/strings.h"
#include "kernels/cuda/memory.h"
#include "tensor/device.h"

namespace thimble {
namespace {
constexpr std::size_t kAlignment = 64;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

constexpr std::size_t kDeviceAlignment = 256;

bool is_mapped(std::size_t bytes) { return bytes >= kHugePage; }
Tier tier_of(Place place) { return place == Place::kDevice ? Tier::kVram : Tier::kRam; }
}  // namespace

std::size_t Buffer::charged_bytes(std::size_t bytes, Place place) noexcept {
    const std::size_t unit = place != Place::kHost ? kDeviceAlignment
                             : is_mapped(bytes)    ? kPage
                                                   : kAlignment;
    return (bytes + unit - 1) & ~(unit - 1);
}

Buffer::Buffer(std::size_t bytes, Purpose purpose) : bytes_(bytes), purpose_(purpose) {
    if (bytes == 0) return;
    const std::size_t charged = charged_bytes(bytes);
    Ledger::process().charge(Tier::kRam, purpose, charged);
    if (is_mapped(bytes)) {
        // Over-map by one huge page and cut to alignment, so that huge pages can be used from the
        // first byte.
        const std::size_t mapped = charged + kHugePage;
        void* p = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p != MAP_FAILED) {
            auto* base = static_cast<std::byte*>(p);
            const std::size_t skip =
                (kHugePage - reinterpret_cast<std::uintptr_t>(p) % kHugePage) % kHugePage;
            if (skip > 0) munmap(base, skip);
            if (mapped - skip > charged) munmap(base + skip + charged, mapped - skip - charged);
            data_ = base + skip;
            madvise(data_, charged, MADV_HUGEPAGE);
        }
    } else {
        data_ = static_cast<std::byte*>(
            ::operator new (charged, std::align_val_t{kAlignment}, std::nothrow));
    }
    if (data_ == nullptr) {
        bytes_ = 0;
        Ledger::process().release(Tier::kRam, purpose, charged);
        throw Error(Exit::kFailure, "memory", "the system refused " + format_bytes(bytes));
    }
}

Buffer::Buffer(std::size_t bytes, Purpose purpose, Place place) {
    if (place == Place::kHost) {
        Buffer(bytes, purpose).swap(*this);
        return;
    }
    if (bytes == 0) return;
    Charge charge(tier_of(place), purpose, charged_bytes(bytes, place));
    on_device([&] {
        data_ = static_cast<std::byte*>(place == Place::kDevice ? cuda::allocate_device(bytes)
                                                                : cuda::allocate_pinned(bytes));
    });
    charge.keep();
    bytes_ = bytes, purpose_ = purpose, place_ = place;
}

void Buffer::reset() noexcept {
    if (data_ == nullptr) return;
    const std::size_t charged = charged_bytes(bytes_, place_);
    if (place_ == Place::kDevice) {
        cuda::free_device(data_);
    } else if (place_ == Place::kPinned) {
        cuda::free_pinned(data_);
    } else if (is_mapped(bytes_)) {
        munmap(data_, charged);
    } else {
        ::operator delete (data_, std::align_val_t{kAlignment});
    }
    Ledger::process().release(tier_of(place_), purpose_, charged);
    data_ = nullptr;
    bytes_ = 0;
    place_ = Place::kHost;
}

}  // namespace thimble
