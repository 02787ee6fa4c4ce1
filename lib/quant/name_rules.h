// SPDX-License-Identifier: Apache-2.0
// --tensor-type: regular expressions over tensor names, each with a format.
#pragma once

#include <regex>
#include <string>
#include <vector>

#include "format/weight_format.h"
#include "model/source.h"
#include "quant/options.h"

namespace thimble {

struct NameRule {
    std::string text;        // "REGEX=FORMAT"
    std::string expression;  // its part before the format
    std::regex pattern;
    SharedFormat format;
    std::size_t hits = 0;  // matrices whose name it finds, decided by it or by an earlier rule
};

class NameRules {
  public:
    // Those of --tensor-type, in order. Throws Error(kUsage).
    explicit NameRules(const std::vector<std::string>& texts);
    // The first that finds `name`, or null; counts the hit of each that does.
    const NameRule* match(const std::string& name);
    // Throws Error(kUsage) with the nearest name for a rule that hit nothing.
    void refuse_idle(const ModelSource& source) const;

  private:
    std::vector<NameRule> rules_;
};

// The rules in a file: separated by spaces or line ends; '#' begins a comment. Throws kNoInput.
[[nodiscard]] std::vector<std::string> read_name_rules(const std::string& path);

}  // namespace thimble
