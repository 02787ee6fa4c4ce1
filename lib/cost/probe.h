// SPDX-License-Identifier: Apache-2.0
// Measures this machine: memory bandwidth with several streams per thread over huge pages, matmul
// rates through our own operations, sequential disk rates past the page cache. Medians of a few
// repetitions; on a shared machine probe next to every timing.
#pragma once

#include <cstdint>
#include <string>

#include "core/options.h"
#include "core/plan.h"
#include "core/team.h"
#include "cost/profile.h"
#include "kernels/layout/isa.h"
#include "tensor/buffer.h"

namespace thimble::cost {

struct ProbeOptions {
    std::int64_t memory_mib = 512;  // read; half of it is copied to the other half
    std::int64_t disk_mib = 256;    // written to and read from `directory`
    std::int64_t repeats = 7;
    std::string directory = ".";
    void visit(OptionVisitor& v);
};

// Thread counts 1, 2, 4, ... up to `threads`, and `threads` itself.
[[nodiscard]] MachineProfile probe(const ProbeOptions& options, std::int64_t threads, Isa isa);
void add_probe_to_plan(Plan& plan, const ProbeOptions& options);

// The parts, for benchmarks that put a probe beside each timing. Medians, bytes per second.
[[nodiscard]] double read_bandwidth(Team& team, const Buffer& memory, std::int64_t repeats);
[[nodiscard]] double copy_bandwidth(Team& team, Buffer& memory, std::int64_t repeats);
struct MatmulRates {
    double f32_ops_per_second = 0, i8_ops_per_second = 0;
    double dense_f32_ops_per_second = 0, dense_bf16_ops_per_second = 0;
};
[[nodiscard]] MatmulRates matmul_rates(Team& team, Isa isa, std::int64_t repeats);
// `far_bytes`: of weights or of keys and values, more than the last cache level holds.
[[nodiscard]] LayoutRate layout_rate(Team& team, Isa isa, const char* format,
                                     std::int64_t far_bytes, std::int64_t repeats);
struct AttentionRates {
    double ops_per_second = 0, bytes_per_second = 0, calls_per_second = 0;
};
[[nodiscard]] AttentionRates attention_rates(Team& team, Isa isa, std::int64_t far_bytes,
                                             std::int64_t repeats);
[[nodiscard]] double calls_per_second(Team& team, Isa isa, std::int64_t repeats);
[[nodiscard]] double elementwise_bandwidth(Team& team, Isa isa, std::int64_t repeats);
struct DiskRates {
    double read_bytes_per_second = 0, write_bytes_per_second = 0;
};
// Writes an unnamed file of `bytes` in `directory`, syncs it, reads it back with the page cache
// avoided.
[[nodiscard]] DiskRates disk_rates(const std::string& directory, std::int64_t bytes);

}  // namespace thimble::cost
