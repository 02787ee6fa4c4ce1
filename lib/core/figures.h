// SPDX-License-Identifier: Apache-2.0
// Numbers as text for people.
#pragma once

#include <array>
#include <cstdio>
#include <string>

namespace thimble {

// 3.14159, 2 -> "3.14"
[[nodiscard]] inline std::string fixed(double value, int decimals) {
    std::array<char, 352> text{};  // the largest double has 309 digits before its point
    std::snprintf(text.data(), text.size(), "%.*f", decimals, value);
    return text.data();
}

}  // namespace thimble
