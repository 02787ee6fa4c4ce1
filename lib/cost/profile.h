// SPDX-License-Identifier: Apache-2.0
// What a machine can do: read and copy bandwidth and GEMM rate by thread count, disk rates. Written
// by `run --probe FILE`; plans take their times from it. Where none is given a slow built-in one is
// used, and every plan names which.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/json.h"

namespace thimble::cost {

struct RateAtThreads {
    std::int64_t threads = 1;
    double read_bytes_per_second = 0;
    double copy_bytes_per_second = 0;  // read plus written bytes
    double f32_ops_per_second = 0;     // matmul; a multiply and an add count as two
    double i8_ops_per_second = 0;
    // Of dense products, which training is made of; operands in F32 and in BF16. Files written
    // before there were such figures have those of matmul in F32.
    double dense_f32_ops_per_second = 0, dense_bf16_ops_per_second = 0;
};

struct MachineProfile {
    std::string name;  // file's basename, or "built-in"
    std::string cpu, isa;
    std::vector<RateAtThreads> rates;  // ascending threads, at least one
    double disk_read_bytes_per_second = 0, disk_write_bytes_per_second = 0;

    // Linear between measured thread counts, constant outside them.
    [[nodiscard]] RateAtThreads at(std::int64_t threads) const;
};

// Dense products at what a server's core of 2023 makes of the instructions that this machine has.
[[nodiscard]] const MachineProfile& built_in_profile();
// `path`, else the file that THIMBLE_PROFILE names, else the built-in one.
[[nodiscard]] MachineProfile find_profile(const std::string& path);

[[nodiscard]] Json to_json(const MachineProfile& profile);
// Throws Error(kBadData) naming `where`.
[[nodiscard]] MachineProfile profile_from_json(const Json& json, std::string_view where);
// For people: one line per thread count, then the disk.
[[nodiscard]] std::string describe(const MachineProfile& profile);

}  // namespace thimble::cost
