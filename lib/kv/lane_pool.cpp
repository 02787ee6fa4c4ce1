// SPDX-License-Identifier: Apache-2.0
#include "kv/lane_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "core/error.h"
#include "core/reclaim.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

namespace thimble {
namespace {

constexpr std::size_t kHugeBytes = std::size_t{2} << 20;

// What this thread charges while it changes the pool takes nothing from the pool.
thread_local bool inside = false;

std::unique_ptr<LaneRange> map_range(std::size_t lanes, std::size_t stride, PageSize page) {
    auto range = std::make_unique<LaneRange>();
    range->page = page, range->stride = stride;
    range->used.resize(lanes), range->ready.resize(lanes);
    const std::size_t bytes = lanes * stride;
    // Without access rights the range costs no memory and counts against no data limit.
    range->mapped = bytes + (page == PageSize::kHuge ? kHugeBytes : 0);
    void* p =
        mmap(nullptr, range->mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    range->map = range->base = static_cast<std::byte*>(p);
    if (page == PageSize::kHuge) {
        const auto at = reinterpret_cast<std::uintptr_t>(p);
        range->base += (kHugeBytes - at % kHugeBytes) % kHugeBytes;
        madvise(range->base, bytes, MADV_HUGEPAGE);  // a wish: without huge pages small ones do
    }
    return range;
}

void unmap(const LaneRange& range) noexcept {
    ASAN_UNPOISON_MEMORY_REGION(range.base, range.used.size() * range.stride);
    munmap(range.map, range.mapped);
}

}  // namespace

std::size_t page_bytes(PageSize page) noexcept {
    static const auto base = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return page == PageSize::kHuge ? kHugeBytes : base;
}

class LanePool::Lock {
  public:
    explicit Lock(const LanePool& pool) : guard_(pool.mutex_) { inside = true; }
    ~Lock() { inside = false; }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

  private:
    std::scoped_lock<std::mutex> guard_;
};

LanePool& LanePool::process() {
    static LanePool instance;
    return instance;
}

LanePool::LanePool() : spare_(Tier::kRam, Purpose::kOther, 0) {
    set_reclaim([](std::uint64_t bytes) noexcept {
        if (!inside) process().trim(bytes);
    });
}

LanePool::~LanePool() {
    set_reclaim(nullptr);
    trim();
}

std::uint64_t LanePool::spare_bytes() const noexcept {
    const Lock lock(*this);
    return spare_.bytes();
}

LaneRange* LanePool::take(std::size_t lanes, std::size_t stride, PageSize page) {
    const Lock lock(*this);
    const auto found = std::find_if(closed_.rbegin(), closed_.rend(), [&](const auto& range) {
        return range->used.size() == lanes && range->stride == stride && range->page == page;
    });
    std::unique_ptr<LaneRange> range;
    if (found != closed_.rend()) {
        range = std::move(*found);
        closed_.erase(std::next(found).base());
    } else {
        range = map_range(lanes, stride, page);
        if (!range) return nullptr;
    }
    return live_.emplace_back(std::move(range)).get();
}

void LanePool::give(LaneRange* range, Charge& charge) noexcept {
    const Lock lock(*this);
    std::uint64_t others = spare_.bytes(), kept = 0;
    bool few = true;
    for (std::size_t i = 0; i < range->used.size(); ++i) {
        others -= range->spare(i);
        range->used[i] = 0;
        kept += range->ready[i];
        few = few && range->ready[i] <= kSpareLaneBytes;
    }
    charge.resize(0);
    const auto at = std::find_if(live_.begin(), live_.end(),
                                 [&](const auto& one) { return one.get() == range; });
    std::unique_ptr<LaneRange> closed = std::move(*at);
    *at = std::move(live_.back());
    live_.pop_back();
    if (!few || closed_.size() == kClosedRanges || !keep(others + kept, others)) {
        spare_.resize(others);
        return unmap(*closed);
    }
    for (std::size_t i = 0; i < closed->used.size(); ++i)
        ASAN_POISON_MEMORY_REGION(closed->lane(i), closed->ready[i]);
    closed_.push_back(std::move(closed));
}

bool LanePool::grow(LaneRange& range, std::size_t lane, std::size_t bytes, Charge& charge) {
    const std::size_t used = range.used[lane];
    const std::uint64_t charged = charge.bytes();
    {
        const Lock lock(*this);
        range.used[lane] = std::min(range.ready[lane], bytes);
        spare_.resize(spare_.bytes() - (range.used[lane] - used));
    }
    const auto undo = [&] {
        spare_.resize(spare_.bytes() - range.spare(lane));
        range.used[lane] = used;
        drop(range, lane, used);
    };
    try {
        charge.resize(charged + (bytes - used));
    } catch (...) {
        const Lock lock(*this);
        undo();
        throw;
    }
    const Lock lock(*this);
    if (!open(range, lane, bytes)) {
        trim_all(UINT64_MAX);
        if (!open(range, lane, bytes)) {
            charge.resize(charged);
            undo();
            return false;
        }
    }
    range.used[lane] = bytes;
    ASAN_UNPOISON_MEMORY_REGION(range.lane(lane) + used, bytes - used);
    return true;
}

void LanePool::shrink(LaneRange& range, std::size_t lane, std::size_t bytes,
                      Charge& charge) noexcept {
    const Lock lock(*this);
    const std::size_t used = range.used[lane];
    const std::uint64_t others = spare_.bytes() - range.spare(lane);
    if (bytes > 0) {  // else it is begun anew
        const std::size_t room = std::max(kSpareLaneBytes, page_bytes(range.page));
        drop(range, lane, std::min(range.ready[lane], bytes + room));
    }
    range.used[lane] = bytes;
    charge.resize(charge.bytes() - (used - bytes));
    if (!keep(others + range.spare(lane), others)) drop(range, lane, bytes);
    ASAN_POISON_MEMORY_REGION(range.lane(lane) + bytes, range.spare(lane));
}

void LanePool::trim(std::uint64_t bytes) noexcept {
    const Lock lock(*this);
    trim_all(bytes);
}

// Charges for `bytes` spare ones, or for `otherwise`, which is no more than now.
bool LanePool::keep(std::uint64_t bytes, std::uint64_t otherwise) noexcept {
    try {
        if (bytes <= kSpareBytes) {
            spare_.resize(bytes);
            return true;
        }
    } catch (const Error&) {  // another thread took what was released just now
    }
    spare_.resize(otherwise);
    return false;
}

// Closed ranges first.
void LanePool::trim_all(std::uint64_t bytes) noexcept {
    const std::uint64_t wanted = spare_.bytes() - std::min(bytes, spare_.bytes());
    while (!closed_.empty() && (spare_.bytes() > wanted || bytes == UINT64_MAX)) {
        const std::unique_ptr<LaneRange> range = std::move(closed_.back());
        closed_.pop_back();
        unmap(*range);
        for (const std::size_t ready : range->ready) spare_.resize(spare_.bytes() - ready);
    }
    for (const auto& range : live_) {
        if (spare_.bytes() <= wanted) return;
        trim_lanes(*range, spare_.bytes() - wanted);
    }
}

void LanePool::trim_lanes(LaneRange& range, std::uint64_t bytes) noexcept {
    std::uint64_t gone = 0;
    for (std::size_t i = 0; i < range.used.size() && gone < bytes; ++i) {
        const std::size_t spare = range.spare(i);
        drop(range, i, range.used[i]);
        spare_.resize(spare_.bytes() - spare);
        gone += spare;
    }
}

// Pages from `ready` on go back to the system.
void LanePool::drop(LaneRange& range, std::size_t lane, std::size_t ready) noexcept {
    std::byte* begin = range.lane(lane) + ready;
    const std::size_t bytes = range.ready[lane] - ready;
    if (bytes == 0) return;
    ASAN_UNPOISON_MEMORY_REGION(begin, bytes);
    madvise(begin, bytes, MADV_DONTNEED);
    mprotect(begin, bytes, PROT_NONE);
    range.ready[lane] = ready;
}

// Pages up to `bytes` may be touched.
bool LanePool::open(LaneRange& range, std::size_t lane, std::size_t bytes) noexcept {
    const std::size_t ready = range.ready[lane];
    if (bytes <= ready) return true;
    if (mprotect(range.lane(lane) + ready, bytes - ready, PROT_READ | PROT_WRITE) != 0)
        return false;
    range.ready[lane] = bytes;
    return true;
}

}  // namespace thimble
