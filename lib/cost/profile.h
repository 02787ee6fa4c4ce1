// SPDX-License-Identifier: Apache-2.0
// What a machine can do: read and copy bandwidth and GEMM rate by thread count, disk rates. Written
// by `run --probe FILE`; plans take their times from it. Where none is given a slow built-in one is
// used, and every plan names which.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"

namespace thimble::cost {

// Matmul rates of one weight layout, with its input as --activations auto reads it.
struct LayoutRate {
    std::string layout;
    double wide_ops_per_second = 0;         // of many tokens, rows of 2048
    double narrow_ops_per_second = 0;       // the same, rows of 512
    double wide_read_bytes_per_second = 0;  // of one token, weights from memory
    double narrow_read_bytes_per_second = 0;
};

struct RateAtThreads {
    std::int64_t threads = 1;
    double read_bytes_per_second = 0;
    double copy_bytes_per_second = 0;  // read plus written bytes
    double f32_ops_per_second = 0;     // matmul; a multiply and an add count as two
    double i8_ops_per_second = 0;
    // Of dense products, which training is made of; operands in F32 and in BF16. Files written
    // before there were such figures have those of matmul in F32.
    double dense_f32_ops_per_second = 0, dense_bf16_ops_per_second = 0;
    // What profiles of before this was measured lack: 0 and none then.
    double attention_ops_per_second = 0;      // of many tokens, 16-bit keys and values
    double attention_bytes_per_second = 0;    // of one token, keys and values from memory
    double attention_calls_per_second = 0;    // of one token and so few keys that they do not count
    double calls_per_second = 0;              // of matmuls so small that only their start counts
    double elementwise_bytes_per_second = 0;  // norms and the like over activations
    std::vector<LayoutRate> layouts = {};

    [[nodiscard]] const LayoutRate* find(std::string_view layout) const noexcept;
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
// `path`, else the file that THIMBLE_MACHINE names, else the built-in one.
[[nodiscard]] MachineProfile find_profile(const std::string& path);

[[nodiscard]] Json to_json(const MachineProfile& profile);
// Throws Error(kBadData) naming `where`.
[[nodiscard]] MachineProfile profile_from_json(const Json& json, std::string_view where);
// For people: one line per thread count, then the disk.
[[nodiscard]] std::string describe(const MachineProfile& profile);

}  // namespace thimble::cost
