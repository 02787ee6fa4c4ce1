// SPDX-License-Identifier: Apache-2.0
// What an importance matrix says about a model, tensor by tensor: the figures that llama-imatrix
// --show-statistics prints, over the mean squares of the columns.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "calib/importance.h"

namespace thimble {

struct ImportanceStatistics {
    std::string tensor;
    std::optional<std::int64_t> layer;  // of a name "blk.N.*"
    std::size_t columns = 0;            // of matrices that saw tokens
    double total = 0, mean = 0, least = 0, most = 0, deviation = 0;
    double active = 0;   // share of columns above 1e-5
    double entropy = 0;  // bits, of the mean squares as a distribution; at most log2(columns)
    double above = 0;    // share of columns more than one deviation above the mean
    std::optional<double> cosine;  // with the same tensor's sums one layer before
};

// In the order of names. Entries that no token reached are left out.
[[nodiscard]] std::vector<ImportanceStatistics> importance_statistics(
    const ImportanceMatrix& matrix);

}  // namespace thimble
