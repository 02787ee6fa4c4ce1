// SPDX-License-Identifier: Apache-2.0
// Emulated device and pinned memory: every allocation stands alone between guard areas of 1 MiB and
// ends at the second of them but for the 255 bytes that cudaMalloc's alignment may leave. These,
// and the 256 bytes before it, hold a pattern that is looked at after each launch; an
// AddressSanitizer build stops the process at any access to them, reads too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace thimble::emu {

// Null where the device has no more, or the system refuses. `pinned`: host memory.
std::byte* allocate(std::size_t bytes, bool pinned);
bool release(void* p, bool pinned);  // false: no such allocation
std::uint64_t device_bytes_held();
bool is_device(const void* p, std::size_t bytes);
bool is_pinned(const void* p, std::size_t bytes);
// What a kernel did that touched an address which cannot be accessed: "accesses byte 400 of an
// allocation of 400 bytes". Callable from a signal handler that interrupted a kernel.
std::string describe_address(const std::byte* p);
// Notes a fault if bytes around an allocation have changed.
bool intact(const char* kernel);

}  // namespace thimble::emu
