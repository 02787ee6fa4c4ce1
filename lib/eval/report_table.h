// SPDX-License-Identifier: Apache-2.0
// The cells of a report, before they become text, Markdown, CSV or HTML. Cells hold text from files
// as it is: each writer escapes for its own format.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "eval/record.h"

namespace thimble::eval {

using TableRows = std::vector<std::vector<std::string>>;  // the first row is the head

[[nodiscard]] TableRows model_rows(std::span<const Record> records);  // one row per record
// Figures of tasks that have no column there, one row each; only a head if there are none.
[[nodiscard]] TableRows task_rows(std::span<const Record> records);
// What the figures hang on: text, speed, machine, reference; what differs between records is said.
[[nodiscard]] std::vector<std::string> report_notes(std::span<const Record> records);

}  // namespace thimble::eval
