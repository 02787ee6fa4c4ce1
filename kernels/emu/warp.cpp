// SPDX-License-Identifier: Apache-2.0
// Barriers and warp operations.
#include <cstdio>

#include "kernels/emu/worker.h"

namespace thimble::emu {
namespace {

std::string hex(std::uint32_t mask) {
    char text[16];
    std::snprintf(text, sizeof text, "0x%x", mask);
    return text;
}

// The mask, less the lanes that a short last warp does not have.
std::uint32_t present(const Worker& w, std::uint32_t mask, unsigned lane) {
    const unsigned first = w.current->thread.linear - lane;
    if ((mask >> lane & 1u) == 0)
        stop(FaultKind::kWarp, "a lane calls a warp operation whose mask leaves it out");
    if (first + kWarpSize <= w.threads) return mask;
    const std::uint32_t there = (1u << (w.threads - first)) - 1;
    if ((mask & ~there) != 0 && mask != 0xffffffffu)
        stop(FaultKind::kWarp,
             "the mask " + hex(mask) + " names lanes that the block does not have");
    return mask & there;
}

// Once a lane has gone on, what it could still look at may be overwritten.
void forget(Warp& warp, Fiber& lane) {
    if (lane.gathering == kNoGathering) return;
    Gathering& old = warp.gatherings[lane.gathering];
    if (--old.readers == 0) warp.unused |= std::uint64_t{1} << lane.gathering;
    lane.gathering = kNoGathering;
}

// The operation in progress that has this mask, or a new one.
unsigned gathering_of(Warp& warp, std::uint32_t mask, int site) {
    for (std::uint64_t bits = warp.filling; bits != 0; bits &= bits - 1) {
        const auto g = static_cast<unsigned>(__builtin_ctzll(bits));
        if (warp.gatherings[g].mask != mask) continue;
        if (warp.gatherings[g].site != site)
            stop(FaultKind::kWarp, "lanes of a warp meet in different warp operations (lines " +
                                       std::to_string(warp.gatherings[g].site) + " and " +
                                       std::to_string(site) + ")");
        return g;
    }
    const auto g = static_cast<unsigned>(__builtin_ctzll(warp.unused));
    warp.unused &= warp.unused - 1;
    warp.filling |= std::uint64_t{1} << g;
    warp.gatherings[g] = {mask, 0, site, static_cast<unsigned>(__builtin_popcount(mask))};
    return g;
}

// After a __syncwarp every lane of the mask knows what each of them knew.
void share_knowledge(Warp& warp, std::uint32_t mask) {
    std::uint32_t all[kWarpSize] = {};
    for (std::uint32_t bits = mask; bits != 0; bits &= bits - 1) {
        const std::uint32_t* one = warp.knows[__builtin_ctz(bits)];
        for (unsigned l = 0; l < kWarpSize; ++l) all[l] = all[l] < one[l] ? one[l] : all[l];
    }
    for (std::uint32_t bits = mask; bits != 0; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits);
        std::memcpy(warp.knows[lane], all, sizeof all);
        ++warp.knows[lane][lane];
    }
}

}  // namespace

void barrier(int site) {
    Worker& w = *worker;
    w.current->wait = Wait::kBarrier;
    w.current->site = site;
    ++w.at_barrier;
    w.yield();
}

const std::byte* warp_exchange(std::uint32_t mask, int site, const void* value, std::size_t bytes) {
    Worker& w = *worker;
    Fiber& me = *w.current;
    const unsigned lane = me.thread.linear % kWarpSize, first = me.thread.linear - lane;
    mask = present(w, mask, lane);
    Warp& warp = w.warps[me.thread.linear / kWarpSize];
    forget(warp, me);
    me.gathering = gathering_of(warp, mask, site);
    Gathering& g = warp.gatherings[me.gathering];
    std::byte* const slots = warp.slots + std::size_t{me.gathering} * kWarpSize * kWarpSlot;
    if (bytes == 4)
        std::memcpy(slots + lane * kWarpSlot, value, 4);
    else if (bytes > 0)
        std::memcpy(slots + lane * kWarpSlot, value, bytes);
    g.arrived |= 1u << lane;
    if (g.arrived != mask) {
        me.wait = Wait::kWarp;
        me.site = site;
        w.yield();
        return slots;
    }
    warp.filling &= ~(std::uint64_t{1} << me.gathering);
    if (bytes == 0 && running.tracking) share_knowledge(warp, mask);
    w.make_ready(first, mask & ~(1u << lane));
    return slots;
}

}  // namespace thimble::emu
