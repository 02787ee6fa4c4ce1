// SPDX-License-Identifier: Apache-2.0
// MXFP4 as safetensors hold it: codes [out, in / 2] u8, byte i = weight 2 i in the low nibble and
// 2 i + 1 in the high one, and a scale exponent (E8M0) for each 32 weights. The codes become blocks
// of ggml's mxfp4, whose bytes hold weights i and i + 16; no value changes.
#pragma once

#include "model/import.h"

namespace thimble {

// `codes` and `scales` have rows * cols / 2 and rows * cols / 32 bytes in row order.
[[nodiscard]] std::shared_ptr<const PackedTensor> make_mxfp4_tensor(const ImportConfig& config,
                                                                    Shape2 shape,
                                                                    const TensorEntry& codes,
                                                                    const TensorEntry& scales);

}  // namespace thimble
