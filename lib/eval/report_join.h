// SPDX-License-Identifier: Apache-2.0
// Puts together what several files tell of the same model, so that a report has one line for it: an
// evaluation that measured only speed is joined to one of the same file (SHA-256 and adapters), of
// the same activations, device and machine, that did not; a report of quantize, which `output`
// names its file, adds how the file was made.
#pragma once

#include <string>
#include <vector>

#include "eval/record.h"

namespace thimble::eval {

class ReportJoin {
  public:
    // Throws Error(kBadData) naming `where` unless it is an evaluation or a report of quantize.
    void add(const Json& json, const std::string& where);
    // In the order they were added. Throws Error(kBadData) naming a report whose model has no
    // evaluation.
    [[nodiscard]] std::vector<Record> records() &&;

  private:
    struct Made {
        std::string where, file;  // basename of the output
        Encoding encoding;
    };
    std::vector<Record> records_;
    std::vector<Made> made_;
};

// By a figure of theirs (gate.h), the least first; those that lack it are last. Error(kUsage)
// naming `where` when none has it.
void sort_records(std::vector<Record>& records, const std::string& figure,
                  const std::string& where);

}  // namespace thimble::eval
