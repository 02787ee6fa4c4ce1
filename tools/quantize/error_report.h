// SPDX-License-Identifier: Apache-2.0
// What became of each tensor, for the JSON report and for --error-report.
#pragma once

#include "io/json.h"
#include "quant/job.h"

namespace thimble {

[[nodiscard]] Json tensor_json(const TensorReport& report);

}  // namespace thimble
