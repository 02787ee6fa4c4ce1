// SPDX-License-Identifier: Apache-2.0
#include "cost/probe.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "core/cpu.h"

namespace thimble::cost {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
// What models are mostly made of.
constexpr std::array kFormats = {"f16",  "bf16", "q8_0", "q4_0", "q4_1",
                                 "q5_0", "q5_1", "q4_k", "q5_k", "q6_k"};

// Weights and caches that are read from memory, not from a cache.
std::int64_t far_bytes(const ProbeOptions& options) {
    return options.memory_mib * static_cast<std::int64_t>(kMiB) / 4;
}

std::vector<std::int64_t> thread_counts(std::int64_t most) {
    std::vector<std::int64_t> counts;
    for (std::int64_t n = 1; n < most; n *= 2) counts.push_back(n);
    counts.push_back(most);
    return counts;
}

}  // namespace

void ProbeOptions::visit(OptionVisitor& v) {
    v.option({.name = "probe-memory",
              .help = "MiB to read and copy; several times the last cache level",
              .value = "MIB",
              .least = 16,
              .most = 1 << 20},
             memory_mib);
    v.option({.name = "probe-disk",
              .help = "MiB to write and read back",
              .value = "MIB",
              .least = 4,
              .most = 1 << 20},
             disk_mib);
    v.option(
        {.name = "probe-directory", .help = "directory on the disk to measure", .value = "DIR"},
        directory);
    v.option({.name = "probe-repeats",
              .help = "repetitions; the median counts",
              .value = "N",
              .least = 1,
              .most = 1000},
             repeats);
}

MachineProfile probe(const ProbeOptions& options, std::int64_t threads, Isa isa) {
    MachineProfile profile;
    profile.name = "measured";
    profile.cpu = cpu_model_name();
    profile.isa = name(isa);
    for (const std::int64_t n : thread_counts(threads)) {
        Team team(static_cast<int>(n));
        RateAtThreads rate;
        rate.threads = n;
        {
            Buffer memory(static_cast<std::size_t>(options.memory_mib) * kMiB, Purpose::kOther);
            std::memset(memory.data(), 1, memory.bytes());
            rate.read_bytes_per_second = read_bandwidth(team, memory, options.repeats);
            rate.copy_bytes_per_second = copy_bandwidth(team, memory, options.repeats);
        }
        const MatmulRates matmul = matmul_rates(team, isa, options.repeats);
        rate.f32_ops_per_second = matmul.f32_ops_per_second;
        rate.i8_ops_per_second = matmul.i8_ops_per_second;
        rate.dense_f32_ops_per_second = matmul.dense_f32_ops_per_second;
        rate.dense_bf16_ops_per_second = matmul.dense_bf16_ops_per_second;
        for (const char* format : kFormats)
            rate.layouts.push_back(
                layout_rate(team, isa, format, far_bytes(options), options.repeats));
        const AttentionRates attention =
            attention_rates(team, isa, far_bytes(options), options.repeats);
        rate.attention_ops_per_second = attention.ops_per_second;
        rate.attention_bytes_per_second = attention.bytes_per_second;
        rate.attention_calls_per_second = attention.calls_per_second;
        rate.calls_per_second = calls_per_second(team, isa, options.repeats);
        rate.elementwise_bytes_per_second = elementwise_bandwidth(team, isa, options.repeats);
        profile.rates.push_back(rate);
    }
    const DiskRates disk =
        disk_rates(options.directory, options.disk_mib * static_cast<std::int64_t>(kMiB));
    profile.disk_read_bytes_per_second = disk.read_bytes_per_second;
    profile.disk_write_bytes_per_second = disk.write_bytes_per_second;
    return profile;
}

void add_probe_to_plan(Plan& plan, const ProbeOptions& options) {
    // The matrices of the matmul follow the memory that is read and copied.
    constexpr std::uint64_t kMatmulMiB = 64;
    const auto mib = std::max(static_cast<std::uint64_t>(options.memory_mib), kMatmulMiB);
    plan.at(Tier::kRam, Purpose::kOther) += Buffer::charged_bytes(mib * kMiB);
    plan.at(Tier::kDisk, Purpose::kIo) += static_cast<std::uint64_t>(options.disk_mib) * kMiB;
    plan.notes.push_back("memory to read and copy, then a scratch file in " + options.directory);
}

}  // namespace thimble::cost
