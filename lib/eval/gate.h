// SPDX-License-Identifier: Apache-2.0
// Quality gates: comparisons of an evaluation's figures, such as "kld_mean<0.03" or
// "ppl <= baseline.ppl * 1.01".
//   gate  = sum ("<" | "<=" | ">" | ">=" | "==" | "!=") sum
//   sum   = product (("+" | "-") product)*
//   product = factor (("*" | "/") factor)*
//   factor  = number | name | "-" factor | "(" sum ")"
// A name is made of letters, digits, '_' and dots. Figures that are not numbers hold no gate.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

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

struct GateResult {
    std::string text;  // the gate as it was given
    double left = 0, right = 0;
    bool holds = false;
};

class Gate {
  public:
    // Throws Error(kUsage) naming --assert and the place in the text.
    explicit Gate(std::string text);
    // Error(kUsage) with the nearest name, and all of them, for a name that is not a figure.
    void check(const std::vector<Figure>& figures) const;
    [[nodiscard]] GateResult evaluate(const std::vector<Figure>& figures) const;
    [[nodiscard]] const std::vector<std::string>& names() const noexcept { return names_; }

  private:
    std::string text_;
    std::vector<std::string> names_;
};

// "ppl<20 does not hold: 21.5 against 20"
[[nodiscard]] std::string describe(const GateResult& result);

}  // namespace thimble::eval
