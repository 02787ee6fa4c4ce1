// SPDX-License-Identifier: Apache-2.0
// Streams, events and the device itself. Everything here throws Failure.
#pragma once

#include <cstdint>

namespace thimble::cuda {

// "none", "emulated" or "cuda": what this build can run kernels on.
[[nodiscard]] const char* build_kind() noexcept;

struct DeviceFacts {
    char name[256];
    int capability;  // 80 is 8.0
    int processors;
    std::uint64_t memory_bytes, free_bytes;
};
// Chooses the first device. Failure: kNotBuilt, kNoDevice, kDriverTooOld (with both versions).
DeviceFacts open_device();

class Event;

// Work in order. Kernels and copies put on it return before they are done.
class Stream {
  public:
    Stream();
    ~Stream();
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    void wait();                        // until all is done
    void wait_for(const Event& event);  // what follows starts only after what the event marked
    [[nodiscard]] void* handle() const noexcept { return handle_; }

  private:
    void* handle_ = nullptr;
};

// Marks a place in a stream.
class Event {
  public:
    Event();
    ~Event();
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    void record(Stream& stream);
    void wait();  // the host waits
    [[nodiscard]] void* handle() const noexcept { return handle_; }

  private:
    void* handle_ = nullptr;
};

}  // namespace thimble::cuda
