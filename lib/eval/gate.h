// SPDX-License-Identifier: Apache-2.0
// The figures of an evaluation that quality gates can name.
#pragma once

#include <string>
#include <vector>

#include "core/gate.h"
#include "eval/record.h"

namespace thimble::eval {

// Every figure that gates can name: "<task>.<metric>"; "<metric>" alone for means over several
// texts, and where one task only has it; "speed.*", "peak_memory.*", "model.*", "seconds".
struct Figure {
    std::string name;
    double value = 0;
    double standard_error = 0;
};
[[nodiscard]] std::vector<Figure> figures_of(const Record& record);
// All of `record`, then all of `baseline` as "baseline.<name>".
[[nodiscard]] std::vector<Figure> figures_of(const Record& record, const Record* baseline);

// Error(kUsage) with the nearest name, and all of them, for a name that is not a figure.
[[nodiscard]] GateResult check_gate(const Gate& gate, const std::vector<Figure>& figures);

}  // namespace thimble::eval
