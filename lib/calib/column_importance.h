// SPDX-License-Identifier: Apache-2.0
// An importance matrix applied to one model: each weight matrix's mean square input by column, or
// why it has none.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "calib/importance.h"
#include "model/source.h"

namespace thimble {

class ColumnImportance {
  public:
    // `file` is named in errors. Throws Error(kBadData) when an entry's length is not its matrix's
    // row length, or when no entry belongs to the model.
    ColumnImportance(ImportanceMatrix matrix, const ModelSource& source, const std::string& file);

    // [cols], finite, not negative, not all zero; empty: none.
    [[nodiscard]] std::span<const float> of(const SourceTensor& tensor) const;
    // Why of() is empty: "no entry", "no token reached it", "all its sums are zero", "3 of 576 sums
    // are negative or not finite"; "" where it is not.
    [[nodiscard]] std::string absence(const SourceTensor& tensor) const;
    // Entries that belong to no matrix of this model.
    [[nodiscard]] const std::vector<std::string>& foreign() const noexcept { return foreign_; }
    [[nodiscard]] std::size_t entries() const noexcept { return entries_; }
    [[nodiscard]] std::int64_t chunks() const noexcept { return chunks_; }
    [[nodiscard]] const std::vector<std::string>& datasets() const noexcept { return datasets_; }
    [[nodiscard]] std::uint64_t bytes() const noexcept { return charge_.bytes(); }

  private:
    struct Columns {
        std::vector<float> means;
        std::string absence;
    };
    std::map<std::string, Columns> columns_;  // by the tensor's name
    std::vector<std::string> foreign_, datasets_;
    std::size_t entries_ = 0;
    std::int64_t chunks_ = 0;
    Charge charge_;
};

}  // namespace thimble
