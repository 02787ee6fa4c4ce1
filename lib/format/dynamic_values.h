// SPDX-License-Identifier: Apache-2.0
// The values of 8-bit codes whose steps grow with the number, over seven decades: "8-bit Optimizers
// via Block-wise Quantization" (2021).
#pragma once

#include <vector>

namespace thimble {

// 256 values from -1 or 0 to 1, ascending. Each decade has twice the steps of the one below it.
[[nodiscard]] std::vector<double> signed_dynamic_values();
[[nodiscard]] std::vector<double> unsigned_dynamic_values();

}  // namespace thimble
