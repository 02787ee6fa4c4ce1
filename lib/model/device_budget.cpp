// SPDX-License-Identifier: Apache-2.0
#include "model/device_budget.h"

#include "core/error.h"
#include "core/strings.h"
#include "ops/cuda_context.h"

namespace thimble {
namespace {

std::optional<std::uint64_t> stated(const Budget& budget) {
    return budget.limit_bytes[static_cast<std::size_t>(Tier::kVram)];
}

}  // namespace

std::uint64_t vram_budget(const Budget& budget) {
    if (const auto limit = stated(budget)) return *limit;
    return cuda_device().free_bytes;
}

std::string vram_remedy(const ModelSource& source, RunnerOptions options, const Budget& budget) {
    const std::uint64_t limit = stated(budget).value_or(options.cuda.vram_bytes);
    const auto needed = [&] {
        Plan plan;
        Runner::add_to_plan(plan, source, options, 1, options.cuda.sequences, 1);
        return plan.total_bytes(Tier::kVram);
    };
    if (needed() <= limit) return {};
    options.step_tokens = std::min<std::int64_t>(options.step_tokens, 64);
    if (const std::uint64_t bytes = needed(); bytes <= limit)
        return "--batch-size 64 needs " + format_bytes(bytes);
    return "--gpu-layers 0 needs no device memory";
}

}  // namespace thimble
