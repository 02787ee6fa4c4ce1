// SPDX-License-Identifier: Apache-2.0
// How one tensor changes when its model is rewritten without changing what it computes, before it
// is encoded. The numbers are a Folding's and known once its layer is prepared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace thimble {

struct TensorFold {
    bool moves_rows = false, moves_columns = false, scales_columns = false, replaced = false;
    std::vector<std::size_t> sites = {};  // of the Folding: what has to be known first

    std::span<const std::int32_t> rows = {};     // row r is the one that was rows[r]; empty: r
    std::span<const std::int32_t> columns = {};  // column c is the one that was columns[c], ...
    std::span<const double> scale = {};          // ... times scale[c]
    std::span<const double> values = {};         // what a norm becomes, as it is written
    std::span<const float> importance = {};      // of the columns as they are then

    // Whether more than the order of rows changes.
    [[nodiscard]] bool changes_rows() const noexcept {
        return moves_columns || scales_columns || replaced;
    }
};

}  // namespace thimble
