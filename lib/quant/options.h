// SPDX-License-Identifier: Apache-2.0
// What the user asks `quantize` for.
#pragma once

#include <string>
#include <vector>

#include "core/options.h"

namespace thimble {

struct QuantizeOptions {
    std::string model, output;
    std::string format = "q8_0";
    std::vector<std::string> tensor_type;  // "regex=format"; the first that matches a name wins
    std::string tensor_type_file;
    std::string output_tensor_type, token_embedding_type;  // "": by --format
    bool leave_output_tensor = false;
    std::string imatrix;
    std::vector<std::string> include_weights, exclude_weights;  // parts of names of its entries
    bool pure = false;
    bool strict = false;
    bool allow_requantize = false;
    bool overwrite = false;
    bool report_error = false;
    std::string error_report;
    void visit(OptionVisitor& v);

    [[nodiscard]] bool measures_error() const { return report_error || !error_report.empty(); }
    // The output's path: as given, or beside the input with the format in its name.
    [[nodiscard]] std::string output_path() const;
};

}  // namespace thimble
