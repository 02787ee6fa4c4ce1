// SPDX-License-Identifier: Apache-2.0
// Quality gates: comparisons of figures, such as "kld_mean<0.03" or "ppl <= baseline.ppl * 1.01".
//   gate  = sum ("<" | "<=" | ">" | ">=" | "==" | "!=") sum
//   sum   = product (("+" | "-") product)*
//   product = factor (("*" | "/") factor)*
//   factor  = number | name | "-" factor | "(" sum ")"
// A name is made of letters, digits, '_' and dots, and begins with no digit or dot. What the names
// stand for is the caller's affair. Figures that are not numbers hold no gate.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace thimble {

struct GateResult {
    double left = 0, right = 0;
    bool holds = false;
    std::vector<double> values;  // of the gate's names
};

class Gate {
  public:
    // Throws Error(kUsage) naming `where` and the place in the text.
    Gate(std::string text, std::string where);
    [[nodiscard]] const std::string& text() const noexcept { return text_; }
    [[nodiscard]] const std::string& where() const noexcept { return where_; }
    [[nodiscard]] const std::vector<std::string>& names() const noexcept { return names_; }

    using Lookup = std::function<double(const std::string& name)>;
    [[nodiscard]] GateResult evaluate(const Lookup& figure) const;

  private:
    std::string text_, where_;
    std::vector<std::string> names_;  // in the order of the text, each once
};

// "kld_mean<0.03 holds: kld_mean is 0.0121", "a<b*2 failed: a is 7, b is not a number"
[[nodiscard]] std::string describe(const Gate& gate, const GateResult& result);

}  // namespace thimble
