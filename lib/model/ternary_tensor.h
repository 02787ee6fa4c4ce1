// SPDX-License-Identifier: Apache-2.0
// Matrices of models trained with ternary weights, in both forms. A checkpoint holds the floats
// that training went on changing; what the model multiplies by is one scale s = max(mean |w|, 1e-5)
// of the whole matrix times w / s rounded to -1, 0 or 1. "Scalable MatMul-free Language Modeling"
// (2024).
// differs: s is rounded to F16 once the codes are known, so that every format that can hold a
// ternary matrix holds the same one.
#pragma once

#include <memory>

#include "model/source.h"

namespace thimble {

// The ternary matrix, as F16, of one that is stored as floats in `layout`. The scale takes a pass
// over the tensor, made when the first rows are read; Error(kBadData) for NaN and infinities.
[[nodiscard]] std::shared_ptr<const PackedTensor> make_ternary_tensor(const TensorEntry& entry,
                                                                      LayoutId layout);
// The other way: floats, as F32, whose ternary form is `tensor`, a matrix of `source`, which both
// outlive it. Error(kBadData) when rows are read of a matrix that has weights of two magnitudes.
[[nodiscard]] std::shared_ptr<const PackedTensor> make_latent_tensor(const ModelSource& source,
                                                                     const SourceTensor& tensor);

}  // namespace thimble
