// SPDX-License-Identifier: Apache-2.0
// The search for a group's scale, as a problem that each instruction-set level solves alike.
#pragma once

#include <cstdint>

#include "kernels/layout/layout.h"

namespace thimble::encode {

struct ScaleSearch {
    LayoutId layout = LayoutId::k_affine;
    int bits = 0;
    const float* weights = nullptr;     // [n]
    const float* importance = nullptr;  // [n]
    int n = 0;
    bool symmetric = false;        // affine: codes count from the middle
    int first_id = 0, end_id = 0;  // bitmod: of the datatypes that may be taken
    // Found:
    float scale = 0, minimum = 0;  // scale 0: all weights are zero or nearly so
    int id = 0;
};
using SearchScale = void (*)(ScaleSearch&);

}  // namespace thimble::encode
