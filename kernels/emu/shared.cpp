// SPDX-License-Identifier: Apache-2.0
// A block's shared memory, and who touched which byte of it.
#include "kernels/emu/worker.h"

namespace thimble::emu {

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
    std::byte* const p = w.shared.data() + offset;
    if (running.tracking) std::memset(p, settings().poison, bytes);
    return p;
}
std::byte* dynamic_shared() { return worker->shared.data(); }
std::size_t dynamic_shared_bytes() { return worker->launch->shared_bytes; }

void beyond_shared(std::size_t count, std::size_t size, std::int64_t at, std::size_t bytes) {
    stop(FaultKind::kSharedAccess, "accesses " + std::to_string(bytes) + " bytes at element " +
                                       std::to_string(at) + " of a shared array of " +
                                       std::to_string(count) + " elements of " +
                                       std::to_string(size) + " bytes");
}
void misaligned(const char* memory, std::size_t bytes) {
    stop(FaultKind::kMisaligned, std::string("accesses a ") + memory + " vector of " +
                                     std::to_string(bytes) +
                                     " bytes at a place that is not a multiple of them");
}

namespace {

constexpr std::uint16_t kNobody = 0xffff;

unsigned warp_of(unsigned thread) { return thread / kWarpSize; }

// The time of a lane is how many __syncwarp it has passed.
std::uint32_t time_of(const Worker& w, unsigned thread) {
    const unsigned lane = thread % kWarpSize;
    return w.warps[warp_of(thread)].knows[lane][lane];
}

// Whether what `thread` did at `time`, since the last barrier, is over for the current thread.
bool ordered(const Worker& w, std::uint16_t thread, std::uint32_t time) {
    const unsigned me = w.current->thread.linear;
    if (thread == me) return true;
    return warp_of(thread) == warp_of(me) &&
           w.warps[warp_of(me)].knows[me % kWarpSize][thread % kWarpSize] >= time;
}

Shadow& shadow_of(Worker& w, const std::byte* p) {
    Shadow& s = w.shadow[static_cast<std::size_t>(p - w.shared.data())];
    if (s.block != w.serial) {
        s = {};
        s.block = w.serial;
        s.writer = kNobody;
    }
    return s;
}

[[noreturn]] void race(const char* does, unsigned other, const char* did) {
    stop(FaultKind::kSharedRace, std::string(does) + " shared memory that thread " +
                                     std::to_string(other) + " of the block " + did +
                                     ", with no barrier between");
}

void note_reader(const Worker& w, Shadow& s) {
    const auto me = static_cast<std::uint16_t>(w.current->thread.linear);
    if (s.read_epoch != w.epoch) {
        s.read_epoch = w.epoch;
        s.reader_warps = 0;
        s.readers[0] = s.readers[1] = kNobody;
    }
    s.reader_warps |= 1u << warp_of(me);
    const int at = s.readers[0] == me || s.readers[0] == kNobody ? 0 : 1;
    s.readers[at] = me;
    s.read_times[at] = time_of(w, me);
}

}  // namespace

void track_read(const std::byte* p, std::size_t bytes) {
    Worker& w = *worker;
    for (std::size_t i = 0; i < bytes; ++i) {
        Shadow& s = shadow_of(w, p + i);
        if (s.writer == kNobody)
            stop(FaultKind::kSharedUninitialised, "reads shared memory that nobody wrote");
        if (s.write_epoch == w.epoch && !ordered(w, s.writer, s.write_time))
            race("reads", s.writer, "wrote");
        note_reader(w, s);
    }
}

void track_write(const std::byte* p, std::size_t bytes) {
    Worker& w = *worker;
    const auto me = static_cast<std::uint16_t>(w.current->thread.linear);
    for (std::size_t i = 0; i < bytes; ++i) {
        Shadow& s = shadow_of(w, p + i);
        if (s.writer != kNobody && s.write_epoch == w.epoch && !ordered(w, s.writer, s.write_time))
            race("writes", s.writer, "wrote");
        if (s.read_epoch == w.epoch) {
            for (int r = 0; r < 2; ++r) {
                if (s.readers[r] != kNobody && !ordered(w, s.readers[r], s.read_times[r]))
                    race("writes", s.readers[r], "read");
            }
            if ((s.reader_warps & ~(1u << warp_of(me))) != 0) {
                const int other = __builtin_ctz(s.reader_warps & ~(1u << warp_of(me)));
                race("writes", static_cast<unsigned>(other) * kWarpSize, "(or its warp) read");
            }
        }
        s.writer = me;
        s.write_epoch = w.epoch;
        s.write_time = time_of(w, me);
        s.read_epoch = 0;
    }
}

}  // namespace thimble::emu
