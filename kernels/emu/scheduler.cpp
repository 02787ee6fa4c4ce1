// SPDX-License-Identifier: Apache-2.0
// Blocks as fibers: one stack per thread of the block, switched only where a thread waits.
#include <boost/context/detail/fcontext.hpp>

#include <sys/mman.h>
#include <atomic>
#include <csetjmp>
#include <csignal>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "kernels/emu/block.h"
#include "kernels/emu/device_memory.h"
#include "kernels/layout/rng.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define THIMBLE_EMU_ASAN 1
#else
#define THIMBLE_EMU_ASAN 0
#endif

namespace thimble::emu {
namespace {

namespace ctx = boost::context::detail;

constexpr unsigned kMostThreads = 1024;
constexpr unsigned kWarpSize = 32;
constexpr std::size_t kStack = THIMBLE_EMU_ASAN ? 256 << 10 : 64 << 10;
constexpr std::size_t kGuard = 4096;
constexpr std::size_t kSharedMost = 228 << 10;
constexpr std::uint16_t kNobody = 0xffff;

enum class Wait : std::uint8_t { kNone, kBarrier, kWarp, kDone };

struct Fiber {
    Thread thread;
    ctx::fcontext_t context = nullptr;
    Wait wait = Wait::kNone;
    int site = 0;  // of the barrier it waits at
    std::uint32_t warp_epoch = 0;
    void* fake_stack = nullptr;
};

// One collective operation in progress among the lanes of a mask.
struct Gathering {
    std::uint32_t mask = 0, arrived = 0;
    int site = 0;
    unsigned turn = 0;  // which of the two sets of slots is being filled
    alignas(64) std::byte slots[2][kWarpSize][kWarpSlot];
};
struct Warp {
    Gathering gathering[kWarpSize];  // by the lowest lane of the mask
};

// Who touched a byte of shared memory last.
struct Shadow {
    std::uint32_t block = 0;  // serial number; another: never touched in this block
    std::uint16_t writer = kNobody, readers[2] = {kNobody, kNobody};
    std::uint32_t write_epoch = 0, write_warp_epoch = 0;
    std::uint32_t read_epoch[2] = {0, 0}, read_warp_epoch[2] = {0, 0};
};

struct SharedArray {
    const void* site;
    std::size_t offset, bytes;
};

// One OS thread's worth of block.
struct Worker {
    Worker();
    ~Worker() { munmap(stacks, kMostThreads * (kStack + kGuard)); }
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    bool run(const Launch& work, Dim3 block);
    void resume(Fiber& fiber);
    void yield();
    void collect(unsigned warp, std::uint32_t mask);
    bool release_barrier();
    [[noreturn]] void leave(FaultKind kind, const std::string& what);

    std::byte* stacks = nullptr;
    std::vector<Fiber> fibers = std::vector<Fiber>(kMostThreads);
    std::vector<Warp> warps = std::vector<Warp>(kMostThreads / kWarpSize);
    std::vector<std::byte> shared = std::vector<std::byte>(kSharedMost);
    std::vector<Shadow> shadow;
    std::vector<SharedArray> arrays;
    std::size_t shared_used = 0;
    const Launch* launch = nullptr;
    unsigned threads = 0, alive = 0, at_barrier = 0;
    Fiber* current = nullptr;
    ctx::fcontext_t scheduler = nullptr;
    std::uint32_t epoch = 0, serial = 0;
    bool track = false, faulted = false;
    const void* scheduler_stack = nullptr;
    std::size_t scheduler_stack_bytes = 0;
    sigjmp_buf escape;
};

thread_local Worker* worker = nullptr;

std::string where(const Worker& w) {
    const Thread& t = w.current->thread;
    const auto dim = [](Dim3 d) {
        return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) +
               ")";
    };
    return std::string(w.launch->name) + ", block " + dim(t.block) + ", thread " + dim(t.index) +
           ": ";
}

Worker::Worker() {
    void* p = mmap(nullptr, kMostThreads * (kStack + kGuard), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) std::abort();
    stacks = static_cast<std::byte*>(p);
    for (unsigned i = 0; i < kMostThreads; ++i)
        mprotect(stacks + i * (kStack + kGuard), kGuard, PROT_NONE);
}

// Ends the block from inside a fiber: its stacks are simply abandoned.
void Worker::leave(FaultKind kind, const std::string& what) {
    note_fault(kind, where(*this) + what);
    faulted = true;
    siglongjmp(escape, 1);
}

void fiber_main(ctx::transfer_t from) {
    Worker& w = *worker;
#if THIMBLE_EMU_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &w.scheduler_stack, &w.scheduler_stack_bytes);
#endif
    w.scheduler = from.fctx;
    w.launch->kernel();
    w.current->wait = Wait::kDone;
    --w.alive;
#if THIMBLE_EMU_ASAN
    __sanitizer_start_switch_fiber(nullptr, w.scheduler_stack, w.scheduler_stack_bytes);
#endif
    ctx::jump_fcontext(w.scheduler, nullptr);
}

void Worker::resume(Fiber& fiber) {
    current = &fiber;
#if THIMBLE_EMU_ASAN
    void* fake = nullptr;
    const std::byte* stack = stacks + fiber.thread.linear * (kStack + kGuard) + kGuard;
    __sanitizer_start_switch_fiber(&fake, stack, kStack);
#endif
    const ctx::transfer_t back = ctx::jump_fcontext(fiber.context, nullptr);
#if THIMBLE_EMU_ASAN
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
    fiber.context = back.fctx;
}

void Worker::yield() {
#if THIMBLE_EMU_ASAN
    Fiber& fiber = *current;
    __sanitizer_start_switch_fiber(&fiber.fake_stack, scheduler_stack, scheduler_stack_bytes);
#endif
    const ctx::transfer_t back = ctx::jump_fcontext(scheduler, nullptr);
#if THIMBLE_EMU_ASAN
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &scheduler_stack, &scheduler_stack_bytes);
#endif
    scheduler = back.fctx;
}

// Lets all threads of the block go on, if all have come.
bool Worker::release_barrier() {
    if (at_barrier == 0 || at_barrier < alive) return false;
    const Fiber* first = nullptr;
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        if (fiber.wait != Wait::kBarrier) {
            current = &fiber;
            leave(FaultKind::kBarrier, "ended while others wait at a barrier");
        }
        if (first == nullptr) first = &fiber;
        if (fiber.site != first->site) {
            current = &fiber;
            leave(FaultKind::kBarrier, "waits at another barrier (line " +
                                           std::to_string(fiber.site) + ") than thread 0 (line " +
                                           std::to_string(first->site) + ")");
        }
        fiber.wait = Wait::kNone;
    }
    at_barrier = 0;
    ++epoch;
    return true;
}

// Order in which the threads of a block get their turns.
std::vector<unsigned> turns(unsigned threads, std::uint64_t seed) {
    std::vector<unsigned> order(threads);
    std::iota(order.begin(), order.end(), 0u);
    if (seed == 1) return {order.rbegin(), order.rend()};
    for (unsigned i = threads; seed != 0 && i > 1; --i)
        std::swap(order[i - 1], order[philox(seed, i).v[0] % i]);
    return order;
}

bool Worker::run(const Launch& work, Dim3 block) {
    worker = this;
    launch = &work;
    threads = alive = work.block.x * work.block.y * work.block.z;
    at_barrier = 0, epoch = 1, ++serial, faulted = false;
    arrays.clear();
    shared_used = (work.shared_bytes + 255) / 256 * 256;
    track = settings().track_shared;
    if (track && shadow.empty()) shadow.resize(kSharedMost);
    if (track) std::memset(shared.data(), settings().poison, shared.size());
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& f = fibers[i];
        const Dim3 d = work.block;
        f.thread = {Dim3(i % d.x, i / d.x % d.y, i / d.x / d.y), block, d, work.grid, i};
        f.context = ctx::make_fcontext(stacks + (i + 1) * (kStack + kGuard), kStack, fiber_main);
        f.wait = Wait::kNone, f.warp_epoch = 0, f.fake_stack = nullptr;
    }
    for (unsigned i = 0; i < (threads + kWarpSize - 1) / kWarpSize; ++i) {
        for (Gathering& g : warps[i].gathering) g.mask = g.arrived = 0;
    }
    static thread_local std::vector<unsigned> order;
    static thread_local std::uint64_t ordered_by = 0;
    if (order.size() != threads || ordered_by != settings().thread_order) {
        ordered_by = settings().thread_order;
        order = turns(threads, ordered_by);
    }
    if (sigsetjmp(escape, 0) != 0) return false;
    while (alive > 0) {
        bool moved = false;
        for (const unsigned i : order) {
            if (fibers[i].wait != Wait::kNone) continue;
            resume(fibers[i]);
            moved = true;
        }
        if (release_barrier()) continue;
        if (moved) continue;
        for (unsigned i = 0; i < threads; ++i) {
            if (fibers[i].wait == Wait::kWarp) {
                current = &fibers[i];
                leave(FaultKind::kWarp, "a lane named in its warp operation never joins it");
            }
        }
        for (unsigned i = 0; i < threads; ++i) {
            if (fibers[i].wait == Wait::kBarrier) current = &fibers[i];
        }
        leave(FaultKind::kBarrier, "waits at a barrier that others never reach");
    }
    return true;
}

// --- faults of memory ---

struct sigaction previous_segv, previous_bus;

void on_bad_access(int signal, siginfo_t* info, void* context) {
    Worker* w = worker;
    if (w != nullptr && w->current != nullptr) {
        const std::string what = describe_address(static_cast<const std::byte*>(info->si_addr));
        if (!what.empty()) w->leave(FaultKind::kGlobalAccess, what);
    }
    const struct sigaction& old = signal == SIGSEGV ? previous_segv : previous_bus;
    if ((old.sa_flags & SA_SIGINFO) != 0 && old.sa_sigaction != nullptr)
        return old.sa_sigaction(signal, info, context);
    std::signal(signal, SIG_DFL);
}

void install_handlers() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action {};
        action.sa_sigaction = on_bad_access;
        action.sa_flags = SA_SIGINFO | SA_NODEFER;
        sigaction(SIGSEGV, &action, &previous_segv);
        sigaction(SIGBUS, &action, &previous_bus);
    });
}

Dim3 block_at(std::uint64_t i, Dim3 grid) {
    return {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
            static_cast<unsigned>(i / grid.x / grid.y)};
}

}  // namespace

const Thread& self() { return worker->current->thread; }

void stop(FaultKind kind, const std::string& what) { worker->leave(kind, what); }

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
    if ((mask >> lane & 1u) == 0)
        stop(FaultKind::kWarp, "a lane calls a warp operation whose mask leaves it out");
    if (first + kWarpSize > w.threads) {  // lanes that a short block does not have
        const std::uint32_t present = (1u << (w.threads - first)) - 1;
        if ((mask & ~present) != 0 && mask != 0xffffffffu)
            stop(FaultKind::kWarp, "the mask names lanes that the block does not have");
        mask &= present;
    }
    Gathering& g = w.warps[me.thread.linear / kWarpSize].gathering[__builtin_ctz(mask)];
    if (g.arrived == 0) g.mask = mask, g.site = site, g.turn ^= 1u;
    if (g.mask != mask || g.site != site)
        stop(FaultKind::kWarp, "lanes of a warp meet in different warp operations (lines " +
                                   std::to_string(g.site) + " and " + std::to_string(site) + ")");
    auto& slots = g.slots[g.turn];
    if (bytes > 0) std::memcpy(slots[lane], value, bytes);
    g.arrived |= 1u << lane;
    ++me.warp_epoch;
    if (g.arrived == mask) {
        g.arrived = 0;
        for (unsigned l = 0; l < kWarpSize; ++l) {
            if (l != lane && (mask >> l & 1u) != 0) w.fibers[first + l].wait = Wait::kNone;
        }
    } else {
        me.wait = Wait::kWarp;
        w.yield();
    }
    return slots[0];
}

std::byte* shared_array(const void* site, std::size_t bytes, std::size_t align) {
    Worker& w = *worker;
    for (const SharedArray& a : w.arrays) {
        if (a.site == site) return w.shared.data() + a.offset;
    }
    const std::size_t offset = (w.shared_used + align - 1) / align * align;
    if (offset + bytes > w.launch->shared_limit)
        stop(FaultKind::kLaunch, "static and dynamic shared memory pass the limit of " +
                                     std::to_string(w.launch->shared_limit) + " bytes");
    w.shared_used = offset + bytes;
    w.arrays.push_back({site, offset, bytes});
    return w.shared.data() + offset;
}
std::byte* dynamic_shared() { return worker->shared.data(); }
std::size_t dynamic_shared_bytes() { return worker->launch->shared_bytes; }

bool tracking() { return worker->track; }

namespace {

// Whether what `thread` did at these epochs is over for the current thread.
bool ordered(const Worker& w, std::uint16_t thread, std::uint32_t epoch, std::uint32_t warp_epoch) {
    const Fiber& me = *w.current;
    if (thread == me.thread.linear || epoch < w.epoch) return true;
    return thread / kWarpSize == me.thread.linear / kWarpSize && warp_epoch < me.warp_epoch;
}

Shadow& shadow_of(Worker& w, const std::byte* p) {
    Shadow& s = w.shadow[static_cast<std::size_t>(p - w.shared.data())];
    if (s.block != w.serial) s = {}, s.block = w.serial;
    return s;
}

}  // namespace

void track_read(const std::byte* p, std::size_t bytes) {
    Worker& w = *worker;
    const auto me = static_cast<std::uint16_t>(w.current->thread.linear);
    for (std::size_t i = 0; i < bytes; ++i) {
        Shadow& s = shadow_of(w, p + i);
        if (s.writer == kNobody)
            stop(FaultKind::kSharedUninitialised, "reads shared memory that nobody wrote");
        if (!ordered(w, s.writer, s.write_epoch, s.write_warp_epoch))
            stop(FaultKind::kSharedRace, "reads shared memory that thread " +
                                             std::to_string(s.writer) +
                                             " wrote, with no barrier between");
        const int at = s.readers[0] == me || s.readers[0] == kNobody ? 0 : 1;
        s.readers[at] = me;
        s.read_epoch[at] = w.epoch;
        s.read_warp_epoch[at] = w.current->warp_epoch;
    }
}

void track_write(const std::byte* p, std::size_t bytes) {
    Worker& w = *worker;
    const auto me = static_cast<std::uint16_t>(w.current->thread.linear);
    for (std::size_t i = 0; i < bytes; ++i) {
        Shadow& s = shadow_of(w, p + i);
        bool fine = s.writer == kNobody || ordered(w, s.writer, s.write_epoch, s.write_warp_epoch);
        for (int r = 0; r < 2; ++r)
            fine = fine && (s.readers[r] == kNobody ||
                            ordered(w, s.readers[r], s.read_epoch[r], s.read_warp_epoch[r]));
        if (!fine)
            stop(FaultKind::kSharedRace,
                 "writes shared memory that another thread uses, with no barrier between");
        s.writer = me;
        s.write_epoch = w.epoch;
        s.write_warp_epoch = w.current->warp_epoch;
        s.readers[0] = s.readers[1] = kNobody;
    }
}

std::string beyond_limits(const Launch& launch) {
    const Dim3 g = launch.grid, b = launch.block;
    const std::uint64_t threads = std::uint64_t{b.x} * b.y * b.z;
    if (threads == 0 || threads > kMostThreads || b.z > 64)
        return "a block of " + std::to_string(threads) + " threads (1 to 1024 are possible)";
    if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535)
        return "a grid of " + std::to_string(g.x) + " x " + std::to_string(g.y) + " x " +
               std::to_string(g.z) + " blocks";
    if (launch.shared_bytes > launch.shared_limit)
        return std::to_string(launch.shared_bytes) + " bytes of dynamic shared memory (limit " +
               std::to_string(launch.shared_limit) + ")";
    return {};
}

bool run_blocks(const Launch& launch) {
    install_handlers();
    const std::uint64_t blocks = std::uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    const unsigned wanted = settings().workers > 0 ? static_cast<unsigned>(settings().workers)
                                                   : std::thread::hardware_concurrency();
    const auto workers =
        static_cast<unsigned>(std::min<std::uint64_t>(std::max(wanted, 1u), (blocks + 3) / 4));
    static std::vector<std::unique_ptr<Worker>> pool;
    while (pool.size() < workers) pool.push_back(std::make_unique<Worker>());
    std::atomic<std::uint64_t> next{0};
    std::atomic<bool> good{true};
    const auto work = [&](Worker& mine) {
        for (std::uint64_t i; good && (i = next++) < blocks;) {
            if (!mine.run(launch, block_at(i, launch.grid))) good = false;
        }
        worker = nullptr;
        mine.current = nullptr;
    };
    std::vector<std::thread> helpers;
    for (unsigned i = 1; i < workers; ++i) helpers.emplace_back([&, i] { work(*pool[i]); });
    work(*pool[0]);
    for (std::thread& helper : helpers) helper.join();
    return good;
}

}  // namespace thimble::emu
