// SPDX-License-Identifier: Apache-2.0
// Writes numbers whose exponents are coded (kernels/layout/exponent_code.h has the layout and the
// paper).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/layout/exponent_code.h"

namespace thimble {

using ExponentCounts = std::array<std::uint64_t, 256>;

[[nodiscard]] inline std::uint8_t exponent_of_bf16(std::uint16_t bits) noexcept {
    return static_cast<std::uint8_t>(bits >> 7);
}
[[nodiscard]] inline std::uint8_t rest_of_bf16(std::uint16_t bits) noexcept {
    return static_cast<std::uint8_t>((bits >> 8 & 0x80) | (bits & 0x7f));
}
void count_exponents(std::span<const std::uint16_t> numbers, ExponentCounts& counts) noexcept;

// The least bits per number that any code of single exponents can have: their entropy.
[[nodiscard]] double entropy_bits(const ExponentCounts& counts) noexcept;

// The code of least size for these counts: how many exponents get a symbol, and its bits.
[[nodiscard]] ExponentCode best_code(const ExponentCounts& counts);

class ExponentCoder {
  public:
    explicit ExponentCoder(const ExponentCode& code);
    // The words of one chunk, at most kChunk numbers.
    void encode(std::span<const std::uint16_t> numbers, std::vector<std::uint16_t>& words) const;

  private:
    std::array<std::uint8_t, 256> symbols_{};  // of exponents
    std::array<std::uint8_t, ExponentCode::kSymbols> codes_{}, lengths_{};
};

}  // namespace thimble
