// SPDX-License-Identifier: Apache-2.0
// Weights to packed rows and back at a chosen instruction-set level. The bytes and floats are those
// of the format's own encoder and decoder, whatever the level; only the time differs.
#pragma once

#include <memory>

#include "format/weight_format.h"
#include "kernels/layout/isa.h"

namespace thimble::ops {

// format.encoder(shape, options) with the level's kernel where the layout has one.
[[nodiscard]] std::unique_ptr<Encoder> encoder(Isa isa, const WeightFormat& format, Shape2 shape,
                                               EncodeOptions options);

// Rows `range` of a stored layout into out, F32 [range.count, cols].
void decode_rows(Isa isa, const PackedView& packed, RowRange range, View out);

}  // namespace thimble::ops
