// SPDX-License-Identifier: Apache-2.0
// The sixteen values that the codes of iq4_nl and iq4_xs name: denser near zero, as weights are.
#pragma once

#include <cstdint>

#include "kernels/layout/rng.h"  // THIMBLE_HOST_DEVICE

namespace thimble {

struct Iq4 {
    static constexpr int kOffset = 128;  // added, it makes every value positive
    static constexpr int kBits = 8;      // of such a sum
    THIMBLE_HOST_DEVICE static constexpr int value(int code) {
        // -127 -104 -83 -65 -49 -35 -22 -10 and 1 13 25 38 53 69 89 113, the lowest byte first: no
        // table in memory, which a device would keep on its stack.
        const std::uint64_t values = code < 8 ? 0xf6eaddcfbfad9881u : 0x7159453526190d01u;
        return static_cast<std::int8_t>(values >> (8 * (code & 7)));
    }
};

}  // namespace thimble
