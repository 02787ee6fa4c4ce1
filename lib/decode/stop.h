// SPDX-License-Identifier: Apache-2.0
// Finds stop strings in text that arrives in pieces. What might begin a stop string is held back,
// so the text let through never contains one, wherever the borders between pieces lie.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace thimble {

class StopMatcher {
  public:
    // Empty strings are ignored.
    explicit StopMatcher(std::vector<std::string> stops);

    // Takes the next piece; returns the text that can be shown now. The stop string that ends first
    // wins; of several that end together, the longest. After a match nothing more comes out.
    [[nodiscard]] std::string push(std::string_view piece);
    [[nodiscard]] bool matched() const noexcept { return matched_; }
    // The text still held back, when no more is to come.
    [[nodiscard]] std::string finish();

  private:
    std::vector<std::string> stops_;  // longest first
    std::string held_;
    bool matched_ = false;
};

}  // namespace thimble
