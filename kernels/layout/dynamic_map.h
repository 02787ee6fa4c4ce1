// SPDX-License-Identifier: Apache-2.0
// 8-bit codes of an optimizer's state: "8-bit Optimizers via Block-wise Quantization" (2021). Each
// block of elements has a peak, its largest magnitude; a code stands for the value, among 256
// ascending ones from -1 or 0 to 1, that the element divided by the peak is next to.
#pragma once

#include <cstdint>

#include "kernels/layout/half.h"

namespace thimble {

struct DynamicMap {
    // A cell is the numbers whose upper 16 bits agree. Those below 2^-23 together are the first
    // one, those from 1 on the last; negative numbers have cells of their own behind these.
    static constexpr int kCells = 128 * 23 + 2;
    static constexpr int kBelow = (104 << 7) - 1;  // upper 15 bits that become cell 0

    float values[256];
    std::int32_t code_of_zero;
    // At most two codes share a cell: bits 16-23 are the code of numbers whose lower 16 bits are at
    // most bits 0-15; bits 24-31 say, with a sign, how far the other code is.
    std::int32_t cells[2 * kCells];

    // Defined for NaN, too: some code.
    THIMBLE_HOST_DEVICE inline std::uint8_t encode(float x) const {
        const auto bits = static_cast<std::int32_t>(float_to_bits(x));
        const std::int32_t upper = (bits >> 16 & 0x7fff) - kBelow;
        const std::int32_t at = upper < 0 ? 0 : upper < kCells ? upper : kCells - 1;
        const std::int32_t cell = cells[at + (bits < 0 ? kCells : 0)];
        const std::int32_t other = (bits & 0xffff) > (cell & 0xffff) ? cell >> 24 : 0;
        return static_cast<std::uint8_t>(x == 0 ? code_of_zero : (cell >> 16) + other);
    }
};

}  // namespace thimble
