// SPDX-License-Identifier: Apache-2.0
// Numbers whose exponents are coded, back to bfloat16 (kernels/layout/exponent_code.h).
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "kernels/layout/exponent_code.h"
#include "kernels/layout/isa.h"

namespace thimble::ops {

// Of one code; the same bits on every level.
class ExponentDecoder {
  public:
    // `code` is sound().
    ExponentDecoder(const ExponentCode& code, Isa isa);
    // A chunk of rest.size() <= kChunk numbers into `out`. Memory up to `readable_end`, at or
    // behind the words' end, may be read; where it ends near them that costs speed. False when the
    // words are damaged; nothing outside them is then read either, and `out` holds anything.
    [[nodiscard]] bool decode(std::span<const std::uint16_t> words,
                              const std::uint16_t* readable_end, std::span<const std::uint8_t> rest,
                              std::span<std::uint16_t> out) const;

  private:
    ExponentCode code_;
    std::array<std::uint8_t, 256> table_{};
    Isa isa_;
};

}  // namespace thimble::ops
