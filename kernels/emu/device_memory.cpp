// SPDX-License-Identifier: Apache-2.0
#include "kernels/emu/device_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>

#include "kernels/emu/emu.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

namespace thimble::emu {
namespace {

constexpr std::size_t kPage = 4096, kAlign = 256, kGuard = std::size_t{1} << 20;
constexpr auto kCanary = std::byte{0xa5};

struct Allocation {
    std::byte* map = nullptr;
    std::size_t map_bytes = 0, bytes = 0;
    bool pinned = false;
    [[nodiscard]] std::size_t slack() const { return (kAlign - bytes % kAlign) % kAlign; }
    // Bytes before the first that its page has to spare.
    [[nodiscard]] std::size_t head() const { return (kPage - (bytes + slack()) % kPage) % kPage; }
};

std::mutex mutex;
std::map<const std::byte*, Allocation>& all() {
    static auto* map = new std::map<const std::byte*, Allocation>;
    return *map;
}
std::uint64_t device_bytes = 0;

// The allocation that begins at or before p.
const std::pair<const std::byte* const, Allocation>* before(const std::byte* p) {
    auto it = all().upper_bound(p);
    if (it == all().begin()) return nullptr;
    return &*--it;
}

bool holds(const void* at, std::size_t bytes, bool pinned) {
    const std::lock_guard lock(mutex);
    const auto* p = static_cast<const std::byte*>(at);
    const auto* found = before(p);
    return found != nullptr && found->second.pinned == pinned &&
           p + bytes <= found->first + found->second.bytes;
}

}  // namespace

std::byte* allocate(std::size_t bytes, bool pinned) {
    const std::lock_guard lock(mutex);
    if (!pinned && device_bytes + bytes > settings().memory_bytes) return nullptr;
    Allocation a;
    a.bytes = bytes, a.pinned = pinned;
    const std::size_t room = (bytes + a.slack() + kPage - 1) / kPage * kPage;
    a.map_bytes = room + 2 * kGuard;
    void* map =
        mmap(nullptr, a.map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return nullptr;
    a.map = static_cast<std::byte*>(map);
    mprotect(a.map + kGuard, room, PROT_READ | PROT_WRITE);
    std::byte* p = a.map + kGuard + room - bytes - a.slack();
    // Fresh memory of a real device holds anything; large blocks are left as the system gives them.
    if (bytes <= (std::size_t{1} << 20)) std::memset(p, settings().poison, bytes);
    std::memset(p - a.head(), static_cast<int>(kCanary), a.head());
    std::memset(p + bytes, static_cast<int>(kCanary), a.slack());
    ASAN_POISON_MEMORY_REGION(p - a.head(), a.head());
    ASAN_POISON_MEMORY_REGION(p + bytes, a.slack());
    if (!pinned) device_bytes += bytes;
    all().emplace(p, a);
    return p;
}

bool release(void* p, bool pinned) {
    const std::lock_guard lock(mutex);
    const auto it = all().find(static_cast<const std::byte*>(p));
    if (it == all().end() || it->second.pinned != pinned) return false;
    const Allocation a = it->second;
    all().erase(it);
    if (!pinned) device_bytes -= a.bytes;
    ASAN_UNPOISON_MEMORY_REGION(a.map, a.map_bytes);
    munmap(a.map, a.map_bytes);
    return true;
}

std::uint64_t device_bytes_held() {
    const std::lock_guard lock(mutex);
    return device_bytes;
}
bool is_device(const void* p, std::size_t bytes) { return holds(p, bytes, false); }
bool is_pinned(const void* p, std::size_t bytes) { return holds(p, bytes, true); }

std::string describe_address(const std::byte* p) {
    const std::lock_guard lock(mutex);
    for (const auto& [begin, a] : all()) {
        if (p < a.map || p >= a.map + a.map_bytes) continue;
        const std::string size = "an allocation of " + std::to_string(a.bytes) + " bytes";
        if (p < begin) return "accesses " + std::to_string(begin - p) + " bytes before " + size;
        return "accesses byte " + std::to_string(p - begin) + " of " + size;
    }
    return "accesses an address that is in no allocation";
}

namespace {

// The first of `n` bytes that is no longer as it was filled, which it is then again; n: none. At
// most 256 are looked at.
std::size_t changed(std::byte* p, std::size_t n) {
    static const auto filled = [] {
        std::array<std::byte, kAlign> all;
        all.fill(kCanary);
        return all;
    }();
    ASAN_UNPOISON_MEMORY_REGION(p, n);
    std::size_t at = n;
    if (std::memcmp(p, filled.data(), n) != 0)
        at = static_cast<std::size_t>(std::mismatch(p, p + n, filled.begin()).first - p);
    if (at < n) std::memset(p, static_cast<int>(kCanary), n);
    ASAN_POISON_MEMORY_REGION(p, n);
    return at;
}

}  // namespace

bool intact(const char* kernel) {
    const std::lock_guard lock(mutex);
    bool good = true;
    for (const auto& [begin, a] : all()) {
        std::byte* const p = const_cast<std::byte*>(begin);
        const std::size_t head = std::min(a.head(), kAlign), before = changed(p - head, head),
                          behind = changed(p + a.bytes, a.slack());
        if (before == head && behind == a.slack()) continue;
        const std::string place = before < head
                                      ? std::to_string(head - before) + " bytes before"
                                      : "byte " + std::to_string(a.bytes + behind) + " of";
        note_fault(FaultKind::kGlobalAccess, std::string(kernel) + ": wrote " + place +
                                                 " an allocation of " + std::to_string(a.bytes) +
                                                 " bytes");
        good = false;
    }
    return good;
}

}  // namespace thimble::emu
