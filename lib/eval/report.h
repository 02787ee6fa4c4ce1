// SPDX-License-Identifier: Apache-2.0
// A table of evaluations for people: one line per result, in the order given. Figures that do not
// compare (other text, windows, machine) are said below it.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "eval/record.h"

namespace thimble::eval {

// Columns padded to their widest cell (counted in characters, not bytes); the first is left
// aligned.
[[nodiscard]] std::string text_table(const std::vector<std::vector<std::string>>& rows);

[[nodiscard]] std::string report_text(std::span<const Record> records);
// The same as Markdown; one page of HTML with plots, without script or other files; CSV with one
// figure a line.
[[nodiscard]] std::string report_markdown(std::span<const Record> records);
[[nodiscard]] std::string report_html(std::span<const Record> records);
[[nodiscard]] std::string report_csv(std::span<const Record> records);
// The one that a file name asks for: .json, .html, .md, .csv, else text.
[[nodiscard]] std::string report_for(const std::string& path, std::span<const Record> records);
[[nodiscard]] Json report_json(std::span<const Record> records);

}  // namespace thimble::eval
