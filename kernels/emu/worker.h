// SPDX-License-Identifier: Apache-2.0
// One OS thread's worth of emulated block: its fibers, warps and shared memory. Inside kernels/emu.
#pragma once

#include <boost/context/detail/fcontext.hpp>

#include <string>
#include <vector>

#include "kernels/emu/block.h"

#if defined(__SANITIZE_ADDRESS__)
#define THIMBLE_EMU_ASAN 1
#else
#define THIMBLE_EMU_ASAN 0
#endif

namespace thimble::emu {

inline constexpr unsigned kMostThreads = 1024, kWarpSize = 32;
inline constexpr std::size_t kStackBytes = THIMBLE_EMU_ASAN ? 256 << 10 : 64 << 10;
inline constexpr std::size_t kStackGuard = 4096;
inline constexpr std::size_t kSharedMost = 228 << 10;

// A stack that somebody left and will come back to: a fiber's, or the scheduler's (the OS
// thread's).
struct Context {
    boost::context::detail::fcontext_t at = nullptr;
    void* fake_stack = nullptr;    // AddressSanitizer's
    const void* bottom = nullptr;  // what it asks about a stack that is switched to
    std::size_t bytes = 0;
    unsigned number = 0;
};

// What a thread that does not run waits for, or waited for last.
enum class Wait : std::uint8_t { kNone, kBarrier, kWarp, kDone };

struct Fiber {
    Thread thread;
    Context* context = nullptr;  // null: not begun
    Wait wait = Wait::kNone;
    int site = 0;            // of the barrier or warp operation it waits at
    unsigned gathering = 0;  // whose values it may still look at; kNoGathering: none
};

// One operation of the lanes of a mask. Its slots stay until every lane has gone on to its next.
struct Gathering {
    std::uint32_t mask = 0, arrived = 0;
    int site = 0;
    unsigned readers = 0;
};
inline constexpr unsigned kGatherings = 2 * kWarpSize, kNoGathering = kGatherings;
struct Warp {
    std::uint64_t filling = 0, unused = ~std::uint64_t{0};  // bits of gatherings
    Gathering gatherings[kGatherings];
    std::byte* slots = nullptr;  // [kGatherings][kWarpSize][kWarpSlot]
    // knows[a][b]: what lane b had done when lane a last met it, directly or through others, in a
    // __syncwarp; knows[a][a] counts a's own. Never reset: nothing compares across blocks.
    std::uint32_t knows[kWarpSize][kWarpSize] = {};
};

// Who touched a byte of shared memory last.
struct Shadow {
    std::uint32_t block = 0;  // serial number; another: never touched in this block
    std::uint16_t writer, readers[2];
    std::uint32_t write_epoch, write_time, read_epoch, read_times[2];
    std::uint32_t reader_warps;  // of read_epoch
};

struct SharedArray {
    const void* site;
    std::size_t offset, bytes;
};

struct Worker {
    Worker();
    ~Worker();
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    bool run(const Launch& work, Dim3 block);
    void begin_block(const Launch& work, Dim3 block);
    bool release_barrier();
    bool stuck();

    // The next thread that can go on, made the current one; null: none.
    Fiber* next();
    void start(Fiber& fiber, Context& on);
    void go(Context& from, Context& to, bool for_good);
    void yield();
    void all_ready();
    // Lanes of the warp that begins with thread `first`.
    void make_ready(unsigned first, std::uint32_t lanes) {
        if (ordered_by == 0) {
            ready[first / 64] |= std::uint64_t{lanes} << first % 64;
            return;
        }
        for (; lanes != 0; lanes &= lanes - 1) {
            const unsigned p = position[first + static_cast<unsigned>(__builtin_ctz(lanes))];
            ready[p / 64] |= std::uint64_t{1} << p % 64;
        }
    }
    // Notes a fault of the current thread.
    void note(FaultKind kind, const std::string& what);
    // The same, from its own stack, which is abandoned.
    [[noreturn]] void leave(FaultKind kind, std::string what);

    std::byte *stacks = nullptr, *slots = nullptr, *signal_stack = nullptr;
    std::vector<Context> contexts;
    std::vector<Context*> idle;  // not in use by a fiber
    Context scheduler;
    std::vector<Fiber> fibers = std::vector<Fiber>(kMostThreads);
    std::vector<Warp> warps = std::vector<Warp>(kMostThreads / kWarpSize);
    std::vector<unsigned> order, position;  // of threads: who comes i-th; and the inverse
    std::uint64_t ordered_by = 0;
    std::uint64_t ready[kMostThreads / 64] = {};  // by position
    unsigned word = 0;                            // of `ready` that is looked at first

    std::vector<std::byte> shared = std::vector<std::byte>(kSharedMost);
    std::vector<Shadow> shadow;
    std::vector<SharedArray> arrays;
    std::size_t shared_used = 0;

    const Launch* launch = nullptr;
    Dim3 block;
    unsigned threads = 0, alive = 0, at_barrier = 0;
    Fiber* current = nullptr;
    std::uint32_t epoch = 0, serial = 0;
    bool faulted = false;
    std::string message;  // what() of the fault: kept here, as its stack is never unwound
};

extern thread_local Worker* worker;

// Before each launch, as others (a test framework, say) set handlers, too.
void catch_bad_accesses();
// So that a fiber that has used up its stack can still be told of.
void give_signal_stack(Worker& mine);

}  // namespace thimble::emu
