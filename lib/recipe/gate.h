// SPDX-License-Identifier: Apache-2.0
// Quality gates: "kld_mean<0.03" on the JSON that a step has written. A figure is named by its key,
// or by a dotted path ("divergence.kld_mean") where the key alone means several; an estimate
// {value, standard_error} counts by its value. Names in an object "figures" come first. Knows
// nothing of what the figures mean.
#pragma once

#include <string>
#include <string_view>

#include "io/json.h"

namespace thimble::recipe {

struct Gate {
    std::string figure;
    std::string relation;  // < <= > >= == !=
    double limit = 0;
    std::string where;  // "r.yaml:8"
    [[nodiscard]] std::string text() const;
};

// Error(kUsage) naming `where`.
[[nodiscard]] Gate parse_gate(std::string_view text, std::string_view where);

struct GateResult {
    bool holds = false;
    double value = 0;  // not a number when the result holds none
};
// A figure that is null, as non-finite numbers are written, fails every gate. A figure that is not
// there, or there twice, is Error(kUsage) with the nearest name.
[[nodiscard]] GateResult check_gate(const Gate& gate, const Json& result);
// "kld_mean<0.03 holds: 0.0121"
[[nodiscard]] std::string gate_line(const Gate& gate, const GateResult& result);

}  // namespace thimble::recipe
