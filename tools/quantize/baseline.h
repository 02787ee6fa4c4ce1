// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace thimble {

// Resident memory of the process before it opens a model.
inline constexpr std::uint64_t kBaselineBytes = std::uint64_t{9} << 20;

}  // namespace thimble
