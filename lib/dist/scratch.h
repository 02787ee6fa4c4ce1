// SPDX-License-Identifier: Apache-2.0
// What sums between ranks go through: arrays are summed in chunks.
#pragma once

#include <cstddef>

namespace thimble::dist {

inline constexpr std::size_t kChunkBytes = std::size_t{4} << 20;

// Every rank's values of one rank's share of a chunk.
constexpr std::size_t scratch_bytes(int size) noexcept {
    return kChunkBytes + static_cast<std::size_t>(size) * sizeof(double);
}

}  // namespace thimble::dist
