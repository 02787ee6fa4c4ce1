// SPDX-License-Identifier: Apache-2.0
// What --imatrix says about one model's tensors and the output's metadata.
#pragma once

#include <optional>
#include <vector>

#include "calib/column_importance.h"
#include "io/model_file.h"
#include "quant/rules.h"

namespace thimble {

// Nothing without --imatrix. Errors as of read_importance and ColumnImportance; Error(kUsage) for
// --include-weights or --exclude-weights that have nothing to choose from.
[[nodiscard]] std::optional<ColumnImportance> load_importance(const QuantizeOptions& options,
                                                              const ModelSource& source);

// Gives each choice that is encoded to fewer bits its columns' importance, or the reason why it is
// encoded without. The spans live as long as `importance`.
void apply_importance(const ColumnImportance& importance, std::vector<TensorChoice>& choices);

// Throws Error(kUsage) for a matrix that is encoded without importance to a format that needs it.
void require_importance(const std::vector<TensorChoice>& choices, const QuantizeOptions& options);

// Warns of entries that cannot be used, one line each, and of those that belong to no matrix.
void warn_of_importance(const ColumnImportance& importance,
                        const std::vector<TensorChoice>& choices, const std::string& file);

// quantize.imatrix.{file,dataset,entries_count,chunks_count} as llama-quantize writes them, but
// names without directories.
void set_importance_keys(Metadata& metadata, const ColumnImportance& importance,
                         const std::string& file);

}  // namespace thimble
