// SPDX-License-Identifier: Apache-2.0
// What a thread of an emulated block sees: its indices, barriers, warp operations, shared memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>

#include "kernels/emu/emu.h"

namespace thimble::emu {

struct Dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr Dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

// The thread that runs now on this OS thread.
struct Thread {
    Dim3 index{0, 0, 0}, block{0, 0, 0}, block_dim, grid_dim;
    unsigned linear = 0, block_threads = 0;
};
struct Running {
    const Thread* thread = nullptr;
    bool tracking = false;
};
extern constinit thread_local Running running;
inline const Thread& self() { return *running.thread; }

// `site` tells one place in the source from another.
void barrier(int site);
// Every lane named in `mask` gives `bytes` (at most 64) and sees what all gave, as 32 slots of 64
// bytes, until its next warp operation. 0 bytes are __syncwarp, which alone orders shared memory.
inline constexpr std::size_t kWarpSlot = 64;
const std::byte* warp_exchange(std::uint32_t mask, int site, const void* value, std::size_t bytes);
[[noreturn]] void stop(FaultKind kind, std::string what);  // ends the launch

// --- shared memory ---

// A place in the block's shared memory for the array declared at `site`; all threads get the same.
std::byte* shared_array(const void* site, std::size_t bytes, std::size_t align);
std::byte* dynamic_shared();
std::size_t dynamic_shared_bytes();
inline bool tracking() { return running.tracking; }
[[noreturn]] void beyond_shared(std::size_t count, std::size_t size, std::int64_t at,
                                std::size_t bytes);
[[noreturn]] void misaligned(const char* memory, std::size_t bytes);
void track_read(const std::byte* p, std::size_t bytes);
void track_write(const std::byte* p, std::size_t bytes);

template <class T>
class Shared {
  public:
    Shared(std::byte* data, std::size_t count) : data_(data), count_(count) {}

    class Element {
      public:
        explicit Element(std::byte* p) : p_(p) {}
        Element(const Element&) = default;
        operator T() const {  // NOLINT: stands for a T
            if (tracking()) track_read(p_, sizeof(T));
            T value;
            std::memcpy(&value, p_, sizeof(T));
            return value;
        }
        const Element& operator=(const T& value) const {  // NOLINT
            if (tracking()) track_write(p_, sizeof(T));
            std::memcpy(p_, &value, sizeof(T));
            return *this;
        }
        const Element& operator=(const Element& other) const {  // NOLINT
            return *this = static_cast<T>(other);
        }
        const Element& operator+=(const T& value) const { return *this = *this + value; }
        const Element& operator*=(const T& value) const { return *this = *this * value; }

      private:
        std::byte* p_;
    };
    template <class I>
    Element operator[](I i) const {
        return Element(at(static_cast<std::int64_t>(i), sizeof(T)));
    }
    // Several elements at once, aligned to their size.
    template <class V, class I>
    V load(I i) const {
        std::byte* p = at(static_cast<std::int64_t>(i), sizeof(V));
        check_aligned(p, sizeof(V));
        if (tracking()) track_read(p, sizeof(V));
        V value;
        std::memcpy(&value, p, sizeof(V));
        return value;
    }
    template <class V, class I>
    void store(I i, const V& value) const {
        std::byte* p = at(static_cast<std::int64_t>(i), sizeof(V));
        check_aligned(p, sizeof(V));
        if (tracking()) track_write(p, sizeof(V));
        std::memcpy(p, &value, sizeof(V));
    }
    // Elements [first, first + count) seen as an array of U.
    template <class U, class I>
    Shared<U> part(I first, std::size_t count) const {
        return Shared<U>(at(static_cast<std::int64_t>(first), count * sizeof(U)), count);
    }

  private:
    std::byte* at(std::int64_t i, std::size_t bytes) const {
        if (i < 0 || static_cast<std::size_t>(i) * sizeof(T) + bytes > count_ * sizeof(T)) {
            beyond_shared(count_, sizeof(T), i, bytes);
        }
        return data_ + static_cast<std::size_t>(i) * sizeof(T);
    }
    static void check_aligned(const std::byte* p, std::size_t bytes) {
        if (reinterpret_cast<std::uintptr_t>(p) % bytes != 0) misaligned("shared", bytes);
    }
    std::byte* data_;
    std::size_t count_;
};

// --- launches ---

struct Launch {
    const char* name = "";
    Dim3 grid, block;
    std::size_t shared_bytes = 0;      // dynamic
    std::size_t shared_limit = 49152;  // as opted in to
    std::function<void()> kernel;      // of one thread
};
// Runs all blocks; a fault is noted and false returned.
bool run_blocks(const Launch& launch);
// What the capability allows; "" if all is well.
std::string beyond_limits(const Launch& launch);

}  // namespace thimble::emu
