// SPDX-License-Identifier: Apache-2.0
// What kernels of products make of weights in a format: the bandwidth that one token reaches with
// weights from memory beside what memory gives, the time with weights in a cache, and how
// much of that goes to unpacking them. Unpacking is not measured alone, as it is woven into the
// products: a kernel is compared with the one that multiplies equally many weights that lie ready.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/options.h"
#include "core/plan.h"
#include "ops/ops.h"

namespace thimble::cost {

// One thread's, of one token, all in its cache.
struct UnpackCost {
    double seconds_per_weight = 0;
    double plain_seconds_per_weight = 0;
    // The layout that lies ready: 8-bit codes where the input is codes, else f32; "" where codes
    // are multiplied as they are.
    std::string plain;

    [[nodiscard]] double seconds_of_unpacking() const noexcept;  // a weight's
    [[nodiscard]] double share() const noexcept;                 // of seconds_per_weight
};
// Of a matrix in memory, or some first rows of it, by exec's level and activations on the CPU.
[[nodiscard]] UnpackCost unpack_cost(const Exec& exec, const PackedView& weight);

inline constexpr std::int64_t kPromptTokens = 64;  // of a prompt, by which many tokens are timed

struct KernelProfileOptions {
    std::vector<std::string> formats;  // empty: all that are registered, and their aliases
    std::int64_t rows = 8192, cols = 2048;
    std::int64_t memory_mib = 128;  // of weights, and of memory that is read beside
    void visit(OptionVisitor& v);
};

struct KernelProfile {
    std::string format;             // as --format takes it
    std::vector<std::string> also;  // other names of the same
    std::string layout;             // in memory
    std::string activations;
    double bytes_per_weight = 0;
    // Of a product with one token by all threads, weights from memory: a tenth of them are faster.
    double seconds = 0;
    double waiting_seconds = 0;  // of these, of the caller for the other threads
    double read_seconds = 0;     // of reading their bytes and nothing else, measured beside
    double near_seconds = 0;     // of the same product with all of it in caches
    UnpackCost unpack;
    double prompt_ops_per_second = 0;
    std::string skipped;  // why there are no figures; else ""

    [[nodiscard]] double bytes_per_second(double weights) const noexcept;
    // What takes longest by itself: "memory" to read the weights, also where the product takes up
    // to a fifth more than that; the "threads" to wait for; or the product in caches, of which
    // "dequantisation" or "arithmetic" is the larger part.
    [[nodiscard]] std::string_view binds() const noexcept;
};

// Told of each before it is measured; stops where that returns false.
using KernelProgress =
    std::function<bool(std::string_view format, std::int64_t done, std::int64_t total)>;
struct KernelProfiles {
    double read_bytes_per_second = 0;  // the median of the probes before and after each format
    std::vector<KernelProfile> formats;
};
// A format that does not take rows of so many columns is skipped, unless it was asked for by name:
// Error(kUsage). exec: level, activations and team.
[[nodiscard]] KernelProfiles profile_kernels(const Exec& exec, const KernelProfileOptions& options,
                                             const KernelProgress& progress);
void add_kernel_profile_to_plan(Plan& plan, const KernelProfileOptions& options);

}  // namespace thimble::cost
