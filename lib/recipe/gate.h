// SPDX-License-Identifier: Apache-2.0
// Quality gates on the JSON that a step has written. A figure is named by its key, or by a dotted
// path ("divergence.kld_mean") where the key alone means several; an estimate {value,
// standard_error} counts by its value. Names in an object "figures" come first. Knows nothing of
// what the figures mean.
#pragma once

#include "core/gate.h"
#include "io/json.h"

namespace thimble::recipe {

// A figure that is null, as non-finite numbers are written, fails every gate. A figure that is not
// there, or there twice, is Error(kUsage) with the nearest name.
[[nodiscard]] GateResult check_gate(const Gate& gate, const Json& result);
// {assert, left, right, holds, line}
[[nodiscard]] Json gate_json(const Gate& gate, const GateResult& result);

}  // namespace thimble::recipe
