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
    int first_id = 0, end_id = 0;  // what may be taken: bitmod's datatypes, nvfp4's scales
    float unit = 0;                // nvfp4: the matrix's scale
    // Found:
    float scale = 0, minimum = 0;  // scale 0: all weights are zero or nearly so
    int id = 0;
};
using SearchScale = void (*)(ScaleSearch&);

}  // namespace thimble::encode
