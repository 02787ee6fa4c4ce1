// SPDX-License-Identifier: Apache-2.0
// Two records sample by sample: for each task that both have on the same samples, and each figure
// that both have per sample, the mean difference with its standard error and a paired test.
#pragma once

#include <string>
#include <vector>

#include "eval/record.h"
#include "eval/statistics.h"

namespace thimble::eval {

struct ComparedFigure {
    std::string task, figure;  // names as in the records
    PairedTest test;
};
struct Comparison {
    std::vector<ComparedFigure> figures;
    std::vector<std::string> notes;  // tasks that do not compare, and why
};
// Error(kUsage) naming both files when nothing compares.
[[nodiscard]] Comparison compare(const Record& a, const Record& b, const std::string& file_a,
                                 const std::string& file_b);
[[nodiscard]] std::string comparison_text(const Comparison& comparison, const Record& a,
                                          const Record& b);
[[nodiscard]] Json comparison_json(const Comparison& comparison);

// Figures of two records side by side with their difference and ratio; those that both have.
[[nodiscard]] std::string beside_text(const Record& record, const Record& baseline);

}  // namespace thimble::eval
