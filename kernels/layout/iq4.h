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
        constexpr std::int8_t kValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                             1,    13,   25,  38,  53,  69,  89,  113};
        return kValues[code];
    }
};

}  // namespace thimble
