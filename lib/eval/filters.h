// SPDX-License-Identifier: Apache-2.0
// What is done with a model's answer before it is compared: a chain of small steps, in the order
// given. "strip" (spaces at both ends), "line" (the first that is not blank), "lower", "number"
// (the last one in the text, without thousands' commas), "regex=..." (the first match: its first
// group, or all of it; nothing if there is none).
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace thimble::eval {

class Filters {
  public:
    // Throws Error(kUsage) naming `where`, with the nearest name.
    Filters(const std::vector<std::string>& steps, std::string_view where);
    [[nodiscard]] std::string apply(std::string text) const;
    // "none", or the steps' names with '+' between.
    [[nodiscard]] const std::string& name() const noexcept { return name_; }

  private:
    std::vector<std::function<std::string(const std::string&)>> steps_;
    std::string name_;
};

[[nodiscard]] std::string strip(std::string_view text);

}  // namespace thimble::eval
