// SPDX-License-Identifier: Apache-2.0
// The dynamic maps of 8-bit optimizer state: "8-bit Optimizers via Block-wise Quantization" (2021).
// Seven decades from 1e-7 to 1, each cut into twice as many equal parts as the one below; a code is
// the middle of a part. Two codes are left: 0 and 1.
#pragma once

#include "kernels/layout/dynamic_map.h"

namespace thimble::train {

// For elements of both signs: 1, 2, ... 64 parts a decade and sign. The nearest code; between 0 and
// its neighbours only 0 itself is coded 0, so that an element keeps its sign.
[[nodiscard]] const DynamicMap& signed_map();
// For elements from 0 on: 2, 4, ... 128 parts a decade. The nearest code.
// differs: half the smallest code stands in the place of 0, because an element that is divided by
// must not be taken for 0 beside a peak a million times larger.
[[nodiscard]] const DynamicMap& unsigned_map();

}  // namespace thimble::train
