// SPDX-License-Identifier: Apache-2.0
// Options that several commands have, worded once.
#pragma once

#include <string>

#include "calib/importance.h"
#include "core/options.h"

namespace thimble {

// Of commands that look at a file and know nothing of its architecture.
[[nodiscard]] inline OptionInfo any_model_option() {
    return {.name = "model",
            .letter = 'm',
            .help =
                "GGUF file (the first of a split one), .safetensors file or Hugging Face "
                "directory, of any architecture",
            .value = "PATH",
            .required = true,
            .is_input = true,
            .positional = true};
}

// An importance matrix to write.
struct ImatrixOutput {
    std::string path, format = "auto";
    bool overwrite = false;

    void visit(OptionVisitor& v, const char* help = "importance matrix to write") {
        v.option({.name = "output",
                  .letter = 'o',
                  .help = help,
                  .value = "FILE",
                  .changes_output = false,
                  .is_output = true},
                 path);
        v.option({.name = "output-format",
                  .help = "auto: .dat if the output's name ends so, else GGUF",
                  .choices = {"auto", "gguf", "dat"}},
                 format);
        v.option(
            {.name = "overwrite", .help = "replace an existing output", .changes_output = false},
            overwrite);
    }
    void write(const ImportanceMatrix& matrix) const {
        const bool dat = format == "dat" || (format == "auto" && path.ends_with(".dat"));
        write_importance(path, matrix, dat ? ImportanceFormat::kDat : ImportanceFormat::kGguf,
                         overwrite ? IfExists::kReplace : IfExists::kRefuse);
    }
};

}  // namespace thimble
