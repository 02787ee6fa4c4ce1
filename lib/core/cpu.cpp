// SPDX-License-Identifier: Apache-2.0
#include "core/cpu.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "core/error.h"
#include "core/strings.h"

namespace thimble {
namespace {

constexpr std::array<std::string_view, kIsaLevels> kIsaNames = {"portable", "avx2", "avx512"};

#if defined(__x86_64__)
struct Cpuid {
    unsigned a = 0, b = 0, c = 0, d = 0;
    Cpuid(unsigned leaf, unsigned subleaf) { __get_cpuid_count(leaf, subleaf, &a, &b, &c, &d); }
};

bool bits(unsigned value, std::initializer_list<int> wanted) {
    return std::all_of(wanted.begin(), wanted.end(),
                       [&](int bit) { return (value >> bit & 1u) != 0; });
}

// XCR0: which register states the operating system saves.
std::uint64_t enabled_states() {
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<std::uint64_t>(high) << 32) | low;
}

Isa detect() {
    const Cpuid one(1, 0);
    if (!bits(one.c, {12 /*FMA*/, 27 /*OSXSAVE*/, 28 /*AVX*/, 29 /*F16C*/})) return Isa::kPortable;
    const std::uint64_t states = enabled_states();
    const Cpuid seven(7, 0);
    if ((states & 0x6) != 0x6 || !bits(seven.b, {5 /*AVX2*/, 8 /*BMI2*/})) return Isa::kPortable;
    const bool wide = (states & 0xe6) == 0xe6 &&
                      bits(seven.b, {16 /*F*/, 17 /*DQ*/, 30 /*BW*/, 31 /*VL*/}) &&
                      bits(seven.c, {1 /*VBMI*/, 6 /*VBMI2*/, 11 /*VNNI*/, 14 /*VPOPCNTDQ*/});
    return wide ? Isa::kAvx512 : Isa::kAvx2;
}
#else
Isa detect() { return Isa::kPortable; }
#endif

// The number after "key" in a file of "key value" lines; 0 if absent.
std::uint64_t number_in(const char* path, std::string_view key) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        if (line.rfind(key, 0) == 0) return std::strtoull(line.c_str() + key.size(), nullptr, 10);
    }
    return 0;
}

// This process's cgroup v2 directory, or "" where there is none.
std::string cgroup_directory() {
    std::ifstream file("/proc/self/cgroup");
    for (std::string line; std::getline(file, line);) {
        if (line.rfind("0::", 0) == 0) return "/sys/fs/cgroup" + line.substr(3);
    }
    return {};
}

}  // namespace

std::string_view name(Isa isa) noexcept { return kIsaNames[static_cast<std::size_t>(isa)]; }

Isa best_isa() noexcept {
    static const Isa detected = detect();
    return detected;
}

Isa parse_isa(std::string_view text, std::string_view where) {
    if (text == "auto") return best_isa();
    for (std::size_t level = 0; level < kIsaNames.size(); ++level) {
        if (kIsaNames[level] != text) continue;
        const Isa isa = static_cast<Isa>(level);
        if (isa <= best_isa()) return isa;
        throw Error(Exit::kUsage, std::string(where), "this machine lacks " + std::string(text),
                    "the highest level here is " + std::string(name(best_isa())));
    }
    const std::vector<std::string> known = {"auto", "portable", "avx2", "avx512"};
    throw Error(Exit::kUsage, std::string(where), "unknown instruction set '" + escaped(text) + "'",
                did_you_mean(text, known));
}

int default_threads() {
    int threads = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) == 0) threads = std::min(threads, CPU_COUNT(&set));
    if (const char* slurm = std::getenv("SLURM_CPUS_PER_TASK")) {
        const int n = std::atoi(slurm);
        if (n > 0) threads = std::min(threads, n);
    }
    std::ifstream quota_file(cgroup_directory() + "/cpu.max");
    double quota = 0, period = 0;
    if (quota_file >> quota >> period && period > 0) {
        threads = std::min(threads, static_cast<int>((quota + period - 1) / period));
    }
    return std::max(threads, 1);
}

ProcessMemory process_memory() {
    return {number_in("/proc/self/status", "VmRSS:") * 1024,
            number_in("/proc/self/status", "VmHWM:") * 1024};
}

std::uint64_t machine_memory_bytes() {
    std::uint64_t bytes = number_in("/proc/meminfo", "MemTotal:") * 1024;
    std::ifstream limit_file(cgroup_directory() + "/memory.max");
    std::uint64_t limit = 0;
    if (limit_file >> limit && limit > 0) bytes = std::min(bytes, limit);
    return bytes;
}

std::string cpu_model_name() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
    }
    return "unknown";
}

}  // namespace thimble
