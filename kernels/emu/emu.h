// SPDX-License-Identifier: Apache-2.0
// Runs CUDA C++ on the CPU, for tests: the .cu files compiled as C++ against kernels/emu/shim. A
// thread of a block is a fiber, a block runs on one OS thread, several blocks run at once.
//
// What it finds, in every build: accesses past a device allocation (guard pages and canaries) and
// past a shared array, shared memory read before it is written, two threads that touch one shared
// byte without a barrier between them, barriers that not all threads of a block reach or that they
// reach at different places, warp operations that not all named lanes join, misaligned vector
// accesses through load_vector, launches beyond the capability's limits, results of runtime calls
// that nobody looks at, streams, events, memory and handles that are never given back, and copies
// and kernels that nothing orders (with work on a stream as late as it may be, or copies as early).
// What it is not: no registers, caches, timing, occupancy or independent thread scheduling; a
// fiber runs until it waits; atomics and fences are the host's; races between blocks in global
// memory show only if they happen; floats are the host's (no flush to zero, its own exp and sin).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace thimble::emu {

// When work that was put on a stream runs; all are orders that a device may take.
enum class Timing : std::uint8_t {
    kLate,         // when something waits for it
    kAtOnce,       // before the call returns
    kCopiesEarly,  // copies as soon as what they wait for is done, kernels when something waits
};

struct Settings {
    int devices = 1;                          // THIMBLE_EMU_DEVICES
    int capability = 80;                      // THIMBLE_EMU_CAPABILITY: 80 is 8.0
    std::uint64_t memory_bytes = 8ULL << 30;  // THIMBLE_EMU_MEMORY
    int driver_version = 13000;               // THIMBLE_EMU_DRIVER
    std::uint64_t thread_order = 0;           // seed; 0: ascending. THIMBLE_EMU_ORDER
    std::uint8_t poison = 0xff;               // fresh shared and device memory
    bool track_shared = true;                 // THIMBLE_EMU_TRACK=0: fast, for whole models
    Timing timing = Timing::kLate;            // THIMBLE_EMU_TIMING: 0, 1 or 2, as declared
    int workers = 0;                          // 0: as many as the machine has
};
// Read from the environment at first use. To be changed only while no work is queued.
Settings& settings();

enum class FaultKind : std::uint8_t {
    kNone,
    kGlobalAccess,
    kSharedAccess,
    kSharedUninitialised,
    kSharedRace,
    kBarrier,
    kWarp,
    kMisaligned,
    kLaunch,
    kUnchecked,
    kLeak,
};
// The first fault since clear_fault(); the runtime call that meets it returns an error. kUnchecked
// and kLeak are no runtime errors: they are only noted here.
struct Fault {
    FaultKind kind = FaultKind::kNone;
    std::string what;  // kernel, block, thread, what it did
};
Fault fault();
void clear_fault();
void note_fault(FaultKind kind, const std::string& what);

// What is held now.
struct Live {
    std::int64_t allocations = 0, streams = 0, events = 0, handles = 0;
    std::uint64_t device_bytes = 0;
};
Live live();
// Notes kLeak if more is held than `before`.
void check_leaks(const Live& before = {});

// Kernel launches so far.
std::uint64_t launches();

}  // namespace thimble::emu
