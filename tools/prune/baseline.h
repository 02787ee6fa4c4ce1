// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace thimble {

// Before a model is opened, and what the heap keeps: measured.
inline constexpr std::uint64_t kBaselineBytes = std::uint64_t{20} << 20;

}  // namespace thimble
