// SPDX-License-Identifier: Apache-2.0
// Blocks as fibers: threads that wait keep their stacks, threads that never do share one. Whoever
// waits switches straight to the next thread that can go on.
#include <sys/mman.h>

#include <csignal>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/emu/device_memory.h"
#include "kernels/emu/worker.h"
#include "kernels/layout/rng.h"

#if THIMBLE_EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace thimble::emu {

namespace ctx = boost::context::detail;

constinit thread_local Running running;
thread_local Worker* worker = nullptr;

namespace {

constexpr std::size_t kStackEach = kStackBytes + kStackGuard, kSignalStack = 64 << 10;
constexpr std::size_t kSlotsBytes = std::size_t{kGatherings} * kWarpSize * kWarpSlot;

std::byte* map(std::size_t bytes) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) std::abort();
    return static_cast<std::byte*>(p);
}

// What a stack that is entered, for the first time or again, does first.
void arrived(Context& here, ctx::transfer_t from) {
    auto& left = *static_cast<Context*>(from.data);
#if THIMBLE_EMU_ASAN
    __sanitizer_finish_switch_fiber(here.fake_stack, &left.bottom, &left.bytes);
#else
    (void)here;
#endif
    left.at = from.fctx;
}

void fiber_main(ctx::transfer_t from) {
    Worker& w = *worker;
    Context& here = *w.current->context;
    here.fake_stack = nullptr;
    arrived(here, from);
    for (;;) {
        w.launch->kernel();
        w.current->wait = Wait::kDone;
        --w.alive;
        Fiber* const next = w.next();
        if (next != nullptr && next->context == nullptr) {  // on the same stack
            w.start(*next, here);
            continue;
        }
        w.idle.push_back(&here);
        w.go(here, next == nullptr ? w.scheduler : *next->context, true);
    }
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

}  // namespace

Worker::Worker() {
    stacks = map(kMostThreads * kStackEach);
    slots = map(kMostThreads / kWarpSize * kSlotsBytes);
    signal_stack = map(kSignalStack);
    contexts.resize(kMostThreads);
    idle.reserve(kMostThreads);
    for (unsigned i = 0; i < kMostThreads; ++i) {
        std::byte* const guard = stacks + i * kStackEach;
        mprotect(guard, kStackGuard, PROT_NONE);
        contexts[i].bottom = guard + kStackGuard;
        contexts[i].bytes = kStackBytes;
        contexts[i].number = i;
    }
    for (unsigned i = 0; i < warps.size(); ++i) {
        warps[i].slots = slots + i * kSlotsBytes;
        for (unsigned lane = 0; lane < kWarpSize; ++lane) warps[i].knows[lane][lane] = 1;
    }
}

Worker::~Worker() {
    munmap(stacks, kMostThreads * kStackEach);
    munmap(slots, warps.size() * kSlotsBytes);
    munmap(signal_stack, kSignalStack);
}

void Worker::note(FaultKind kind, const std::string& what) {
    const auto dim = [](Dim3 d) {
        return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) +
               ")";
    };
    note_fault(kind, std::string(launch->name) + ", block " + dim(block) + ", thread " +
                         dim(current->thread.index) + ": " + what);
    faulted = true;
}

void Worker::leave(FaultKind kind, std::string what) {
    message.swap(what);
    std::string().swap(what);  // nothing may stay behind on this stack: no destructor runs
    note(kind, message);
#if THIMBLE_EMU_ASAN
    __asan_handle_no_return();
#endif
    go(*current->context, scheduler, true);
    std::abort();  // nobody comes back
}

// Puts a thread that has not begun on a stack.
void Worker::start(Fiber& fiber, Context& on) {
    const unsigned i = fiber.thread.linear;
    const Dim3 d = launch->block;
    fiber.thread.index =
        d.y * d.z == 1 ? Dim3(i, 0, 0) : Dim3(i % d.x, i / d.x % d.y, i / d.x / d.y);
    fiber.thread.block = block, fiber.thread.block_dim = d, fiber.thread.grid_dim = launch->grid;
    fiber.context = &on;
}

Fiber* Worker::next() {
    constexpr unsigned kWords = kMostThreads / 64;
    for (unsigned i = 0; i < kWords; ++i) {
        std::uint64_t& bits = ready[(word + i) % kWords];
        if (bits == 0) continue;
        word = (word + i) % kWords;
        const auto bit = static_cast<unsigned>(__builtin_ctzll(bits));
        bits &= bits - 1;
        current = &fibers[order[word * 64 + bit]];
        running.thread = &current->thread;
        return current;
    }
    return nullptr;
}

// Leaves `from`, for good or until somebody switches to it.
void Worker::go(Context& from, Context& to, bool for_good) {
#if THIMBLE_EMU_ASAN
    __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake_stack, to.bottom, to.bytes);
#else
    (void)for_good;
#endif
    arrived(from, ctx::jump_fcontext(to.at, &from));
}

// The current thread, or the scheduler, lets others run.
void Worker::yield() {
    Context& here = current == nullptr ? scheduler : *current->context;
    Fiber* const to = next();
    if (to == nullptr) return go(here, scheduler, false);
    if (to->context == nullptr) {
        Context& fresh = *idle.back();
        idle.pop_back();
        // Tops of stacks are spread over a page: at one offset they would share a set of the cache.
        std::byte* const top = stacks + (fresh.number + 1) * kStackEach - fresh.number % 16 * 256;
#if THIMBLE_EMU_ASAN  // the frames of those who left it for good
        ASAN_UNPOISON_MEMORY_REGION(top - 4096, 4096);
#endif
        fresh.at = ctx::make_fcontext(top, kStackBytes - 4096, fiber_main);
        start(*to, fresh);
    }
    go(here, *to->context, false);
}

void Worker::all_ready() {
    for (unsigned i = 0; i < threads; i += 64)
        ready[i / 64] =
            threads - i >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << (threads - i)) - 1;
    word = 0;
}

// Lets all threads of the block go on, if all have come.
bool Worker::release_barrier() {
    if (at_barrier == 0 || at_barrier < alive) return false;
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        current = &fiber;
        if (fiber.wait != Wait::kBarrier) {
            note(FaultKind::kBarrier, "ended while others wait at a barrier");
            return false;
        }
        if (fiber.site != fibers[0].site) {
            note(FaultKind::kBarrier, "waits at another barrier (line " +
                                          std::to_string(fiber.site) + ") than thread 0 (line " +
                                          std::to_string(fibers[0].site) + ")");
            return false;
        }
    }
    at_barrier = 0;
    ++epoch;
    all_ready();
    return true;
}

// No thread can go on: says why. Always false.
bool Worker::stuck() {
    for (const Wait wait : {Wait::kWarp, Wait::kBarrier}) {
        for (unsigned i = 0; i < threads; ++i) {
            if (fibers[i].wait != wait) continue;
            current = &fibers[i];
            const std::string line = " (line " + std::to_string(fibers[i].site) + ")";
            if (wait == Wait::kWarp)
                note(FaultKind::kWarp,
                     "a lane named in its warp operation" + line + " never joins it");
            else
                note(FaultKind::kBarrier, "waits at a barrier" + line + " that others never reach");
            return false;
        }
    }
    return false;
}

void Worker::begin_block(const Launch& work, Dim3 where) {
    worker = this;
    launch = &work, block = where;
    threads = alive = work.block.x * work.block.y * work.block.z;
    at_barrier = 0, epoch = 1, ++serial;
    arrays.clear();
    shared_used = (work.shared_bytes + 15) / 16 * 16;
    running.tracking = settings().track_shared;
    if (running.tracking) {
        if (shadow.empty()) shadow.resize(kSharedMost);
        std::memset(shared.data(), settings().poison, shared_used);
    }
    if (order.size() != threads || ordered_by != settings().thread_order) {
        ordered_by = settings().thread_order;
        order = turns(threads, ordered_by);
        position.resize(threads);
        for (unsigned i = 0; i < threads; ++i) position[order[i]] = i;
    }
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& f = fibers[i];
        f.thread.linear = i, f.thread.block_threads = threads;
        f.context = nullptr, f.wait = Wait::kNone, f.gathering = kNoGathering;
    }
    for (unsigned i = 0; i < (threads + kWarpSize - 1) / kWarpSize; ++i)
        warps[i].filling = 0, warps[i].unused = ~std::uint64_t{0};
    all_ready();
    if (idle.size() != kMostThreads) {  // at first, and after a fault
        idle.clear();
        for (unsigned i = kMostThreads; i-- > 0;) idle.push_back(&contexts[i]);
    }
}

bool Worker::run(const Launch& work, Dim3 where) {
    begin_block(work, where);
    faulted = false;
    do {
        current = nullptr;
        yield();
    } while (!faulted && (release_barrier() || (!faulted && alive > 0 && stuck())));
    current = nullptr;
    running.thread = nullptr;
    if (!faulted) return true;
#if THIMBLE_EMU_ASAN
    ASAN_UNPOISON_MEMORY_REGION(stacks, kMostThreads * kStackEach);
#endif
    for (std::uint64_t& bits : ready) bits = 0;
    return false;
}

// --- faults of memory ---

namespace {

struct sigaction previous_segv, previous_bus;

__attribute__((no_sanitize("address"))) void on_bad_access(int signal, siginfo_t* info,
                                                           void* context) {
    Worker* w = worker;
    if (w != nullptr && w->current != nullptr) {
        const auto* at = static_cast<const std::byte*>(info->si_addr);
        if (at >= w->stacks && at < w->stacks + kMostThreads * kStackEach)
            w->leave(FaultKind::kGlobalAccess,
                     "needs more local memory than the emulated stack's " +
                         std::to_string(kStackBytes >> 10) + " KiB");
        w->leave(FaultKind::kGlobalAccess, describe_address(at));
    }
    const struct sigaction& old = signal == SIGSEGV ? previous_segv : previous_bus;
    if ((old.sa_flags & SA_SIGINFO) != 0 && old.sa_sigaction != nullptr)
        return old.sa_sigaction(signal, info, context);
    if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) return old.sa_handler(signal);
    std::signal(signal, SIG_DFL);
}

void install(int signal, struct sigaction& previous) {
    struct sigaction action {};
    sigaction(signal, nullptr, &action);
    if (action.sa_sigaction == on_bad_access) return;
    previous = action;
    action = {};
    action.sa_sigaction = on_bad_access;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigaction(signal, &action, nullptr);
}

}  // namespace

void catch_bad_accesses() {
    install(SIGSEGV, previous_segv);
    install(SIGBUS, previous_bus);
}

void give_signal_stack(Worker& mine) {
    stack_t here{};
    sigaltstack(nullptr, &here);
    if ((here.ss_flags & SS_DISABLE) == 0) return;  // somebody else's
    here.ss_sp = mine.signal_stack, here.ss_size = kSignalStack, here.ss_flags = 0;
    sigaltstack(&here, nullptr);
}

void stop(FaultKind kind, std::string what) { worker->leave(kind, std::move(what)); }

}  // namespace thimble::emu
