// SPDX-License-Identifier: Apache-2.0
// Device memory and the stated budget.
#pragma once

#include <string>

#include "core/ledger.h"
#include "model/runner.h"

namespace thimble {

// vram= of the budget, or else what the CUDA device has free; Error(kUsage) where there is none.
[[nodiscard]] std::uint64_t vram_budget(const Budget& budget);

// The cheapest change with which a Runner's device memory would fit the budget; "" if it does.
[[nodiscard]] std::string vram_remedy(const ModelSource& source, RunnerOptions options,
                                      const Budget& budget);

}  // namespace thimble
