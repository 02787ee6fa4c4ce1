// SPDX-License-Identifier: Apache-2.0
// Optimal prefix codes whose longest code is bounded.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace thimble {

// Bits of each symbol's code, 0 where its count is 0; the sum of count * bits is the least that
// codes of at most `longest` bits allow ("A Fast Algorithm for Optimal Length-Limited Huffman
// Codes", 1990: package-merge). A symbol alone gets one bit. Fewer than 2^longest symbols.
[[nodiscard]] std::vector<int> code_lengths(std::span<const std::uint64_t> counts, int longest);

}  // namespace thimble
