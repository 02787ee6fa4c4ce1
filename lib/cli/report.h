// SPDX-License-Identifier: Apache-2.0
// The plan as text and JSON, and predicted beside measured peaks.
#pragma once

#include <string>

#include "core/plan.h"
#include "io/json.h"

namespace thimble::cli {

[[nodiscard]] std::string plan_text(const Plan& plan, const Budget& budget);
[[nodiscard]] Json plan_json(const Plan& plan, const Budget& budget);

// Peaks of the process ledger and of the process itself.
[[nodiscard]] Json measured_json();
// A table for stderr: one row per purpose that was planned or charged.
[[nodiscard]] std::string memory_text(const Plan& plan);

// YYYY-MM-DDThh:mm:ssZ; for reports only, never for model files.
[[nodiscard]] std::string utc_now();
// What measured figures depend on.
[[nodiscard]] Json machine_json();

}  // namespace thimble::cli
