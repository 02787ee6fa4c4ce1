// SPDX-License-Identifier: Apache-2.0
// 8-bit codes of an optimizer's state: "8-bit Optimizers via Block-wise Quantization" (2021). Each
// block of elements has a peak, its largest magnitude; a code stands for the value, among 256
// ascending ones from -1 or 0 to 1, that the element divided by the peak is next to.
#pragma once

#include <cstdint>

#include "kernels/layout/half.h"

namespace thimble {

struct DynamicMap {
    // Cells of float numbers by sign and the upper half of their bits: all below 2^-23 are one, all
    // from 1 on another.
    static constexpr int kCells = 128 * 23 + 2;

    float values[256];
    float borders[256];  // the largest number that code i is given to; the last one: infinity
    // Code of the lowest number in each cell, those of negative numbers in the second half. At most
    // one border lies in a cell. (The last bytes are there to be loaded along.)
    std::uint8_t cells[2 * kCells + 3];

    THIMBLE_HOST_DEVICE static inline std::uint32_t cell(float x) {
        constexpr std::uint32_t kBelow = (104u << 7) - 1;  // of the numbers below 2^-23
        const std::uint32_t bits = float_to_bits(x), upper = bits >> 16 & 0x7fffu;
        const std::uint32_t bounded = upper < kBelow ? kBelow : upper;
        const std::uint32_t index = bounded - kBelow;
        return (index < kCells ? index : kCells - 1) + (bits >> 31) * kCells;
    }
    // Defined for NaN, too: some code.
    THIMBLE_HOST_DEVICE inline std::uint8_t encode(float x) const {
        const std::uint8_t code = cells[cell(x)];
        return static_cast<std::uint8_t>(code + (x > borders[code]));
    }
};

}  // namespace thimble
