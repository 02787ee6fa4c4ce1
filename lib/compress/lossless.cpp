// SPDX-License-Identifier: Apache-2.0
#include "compress/lossless.h"

#include <filesystem>

#include "core/error.h"

namespace thimble {

namespace fs = std::filesystem;

void LosslessOptions::visit(OptionVisitor& v) {
    v.option({.name = "model",
              .letter = 'm',
              .help = "GGUF or .safetensors file, or Hugging Face directory",
              .value = "PATH",
              .required = true,
              .is_input = true,
              .positional = true},
             model);
    v.option({.name = "output",
              .letter = 'o',
              .help = "file to write; of a directory, a directory",
              .value = "PATH",
              .changes_output = false,
              .required = true,
              .is_output = true},
             output);
    v.option({.name = "overwrite", .help = "replace an existing output", .changes_output = false},
             overwrite);
}

void LosslessOptions::visit_layout(OptionVisitor& v) {
    v.option({.name = "layout",
              .help = "thimble: runs as it lies, files come back byte for byte; reference: of a "
                      "Hugging Face directory, as DFloat11's authors store it",
              .choices = {"thimble", "reference"}},
             layout);
}

std::unique_ptr<LosslessJob> compress_job(const LosslessOptions& options) {
    const bool directory = fs::is_directory(options.model);
    if (options.layout == "reference") {
        if (!directory)
            throw Error(Exit::kUsage, escaped(options.model, 1024),
                        "is not a Hugging Face directory, which the reference layout is made of");
        return write_reference(options);
    }
    return directory ? compress_directory(options) : compress_file(options);
}

std::unique_ptr<LosslessJob> decompress_job(const LosslessOptions& options) {
    if (!fs::is_directory(options.model)) return decompress_file(options);
    return is_reference(options.model) ? read_reference(options) : decompress_directory(options);
}

}  // namespace thimble
