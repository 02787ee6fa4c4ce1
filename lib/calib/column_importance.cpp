// SPDX-License-Identifier: Apache-2.0
#include "calib/column_importance.h"

#include <algorithm>

#include "core/error.h"
#include "core/strings.h"

namespace thimble {
namespace {

[[noreturn]] void refuse_foreign(const ImportanceMatrix& matrix, const ModelSource& source,
                                 const std::string& where) {
    std::vector<std::string> names;
    for (const SourceTensor& tensor : source.tensors()) {
        if (tensor.is_matrix) names.push_back(tensor.name);
    }
    const std::string& first = matrix.entries.begin()->first;
    throw Error(Exit::kBadData, where,
                "none of its " + std::to_string(matrix.entries.size()) +
                    " entries belongs to a matrix of this model; the first is '" + escaped(first) +
                    "'" + did_you_mean(first, names),
                "make the importance matrix from this model");
}

std::string absence_of(const ImportanceEntry& entry) {
    if (entry.counts.front() == 0) return "no token reached it";
    if (const std::size_t bad = unusable_sums(entry); bad > 0) {
        return std::to_string(bad) + " of " + std::to_string(entry.sums.size()) +
               " sums are negative or not finite";
    }
    const bool zero =
        std::all_of(entry.sums.begin(), entry.sums.end(), [](float v) { return v == 0; });
    return zero ? "all its sums are zero" : "";
}

}  // namespace

ColumnImportance::ColumnImportance(ImportanceMatrix matrix, const ModelSource& source,
                                   const std::string& file)
    : datasets_(std::move(matrix.datasets)),
      entries_(matrix.entries.size()),
      chunks_(matrix.chunk_count),
      charge_(std::move(matrix.charge)) {
    const std::string where = escaped(file, 1024);
    for (auto& [name, entry] : matrix.entries) {
        const SourceTensor* tensor = source.find(name);
        if (tensor == nullptr || !tensor->is_matrix) {
            foreign_.push_back(name);
            continue;
        }
        if (entry.counts.size() != 1 || static_cast<std::int64_t>(entry.cols()) != tensor->cols()) {
            throw Error(Exit::kBadData, where,
                        "entry '" + escaped(name) + "' holds " + std::to_string(entry.sums.size()) +
                            " columns of " + std::to_string(entry.counts.size()) +
                            " matrices, the model's has " + std::to_string(tensor->cols()) +
                            " of 1",
                        "make the importance matrix from this model");
        }
        Columns& columns = columns_[name];
        columns.absence = absence_of(entry);
        if (!columns.absence.empty()) continue;
        const auto count = static_cast<float>(entry.counts.front());
        for (float& sum : entry.sums) sum /= count;
        columns.means = std::move(entry.sums);
    }
    if (columns_.empty()) refuse_foreign(matrix, source, where);
}

std::span<const float> ColumnImportance::of(const SourceTensor& tensor) const {
    const auto at = columns_.find(tensor.name);
    if (at == columns_.end()) return {};
    return at->second.means;
}

std::string ColumnImportance::absence(const SourceTensor& tensor) const {
    const auto at = columns_.find(tensor.name);
    return at == columns_.end() ? "no entry" : at->second.absence;
}

}  // namespace thimble
