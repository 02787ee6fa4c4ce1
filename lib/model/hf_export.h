// SPDX-License-Identifier: Apache-2.0
// A model under the names and conventions of a Hugging Face directory: the inverse of what
// ModelSource makes of one, from the same tables (architecture.h).
#pragma once

#include <functional>
#include <vector>

#include "model/source.h"

namespace thimble {

// The tensors, in the source's order, for ModelSource's reading functions: `name` is Hugging
// Face's, `dims` are the same, rows and offsets are those of its convention. Without the tensors
// that a config.json says in another way.
[[nodiscard]] std::vector<SourceTensor> hf_tensors(const ModelSource& source);

// Row r of a matrix as Hugging Face orders them is canonical row f(r); empty: r.
[[nodiscard]] std::function<std::int64_t(std::int64_t)> canonical_rows(const SourceTensor& tensor,
                                                                       std::int64_t head_dim);

// config.json, without the special tokens' ids. Of a Hugging Face source its own. `dtype` is what
// most weights are stored in. Throws kBadData where no config.json can say what the model does.
[[nodiscard]] Json hf_config(const ModelSource& source, TensorType dtype);

}  // namespace thimble
