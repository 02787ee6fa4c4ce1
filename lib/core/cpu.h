// SPDX-License-Identifier: Apache-2.0
// Facts about this machine and process: instruction sets (CPU and operating system), threads,
// memory.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "kernels/layout/isa.h"

namespace thimble {

[[nodiscard]] std::string_view name(Isa isa) noexcept;  // "portable", "avx2", "avx512"
[[nodiscard]] Isa best_isa() noexcept;                  // highest level that CPU and OS support
// "auto" or a level's name; a level that this machine lacks is an error (exit 2), never a fallback.
[[nodiscard]] Isa parse_isa(std::string_view text, std::string_view where);

// Threads to use by default: affinity mask, cgroup quota and SLURM_CPUS_PER_TASK, the least of
// them.
[[nodiscard]] int default_threads();

struct ProcessMemory {
    std::uint64_t resident_bytes = 0;       // VmRSS
    std::uint64_t peak_resident_bytes = 0;  // VmHWM
};
[[nodiscard]] ProcessMemory process_memory();
[[nodiscard]] std::uint64_t machine_memory_bytes();  // MemTotal, or the cgroup limit when lower
[[nodiscard]] std::string cpu_model_name();

}  // namespace thimble
