// SPDX-License-Identifier: Apache-2.0
// What the user asks `quantize` for.
#pragma once

#include <string>
#include <vector>

#include "core/options.h"
#include "model/adapted_store.h"
#include "quant/metadata_edit.h"

namespace thimble {

struct QuantizeOptions {
    std::string model, output;
    std::string format;  // "": q8_0; for a Hugging Face directory f16, or the source's if plain
    std::string container, split_max_size;
    std::int64_t split_max_tensors = 0;
    MetadataEdits edits;
    AdapterOptions adapters;               // merged into the weights
    std::vector<std::string> tensor_type;  // "regex=format"; the first that matches a name wins
    std::string tensor_type_file;
    std::string output_tensor_type, token_embedding_type;  // "": by --format
    bool leave_output_tensor = false;
    std::string rearrange;  // "ffn,values", "all"
    double smooth = kNoSmoothing;
    std::string imatrix;
    std::vector<std::string> include_weights, exclude_weights;  // parts of names of its entries
    bool pure = false;
    bool strict = false;
    bool allow_requantize = false;
    bool overwrite = false;
    bool resume = false;
    std::string checkpoint_every = "256MiB";
    bool report_error = false;
    std::string error_report;
    void visit(OptionVisitor& v);

    [[nodiscard]] bool measures_error() const { return report_error || !error_report.empty(); }
    // Whether a Hugging Face directory is asked for: by name, or by a path that ends in '/'.
    [[nodiscard]] bool wants_hf() const;
    // Types are kept.
    [[nodiscard]] bool copies() const { return format == kCopy; }
    static constexpr const char* kCopy = "copy";
    static constexpr double kNoSmoothing = -1;
    // The output's path: as given, or beside the input with the format in its name.
    [[nodiscard]] std::string output_path() const;
};

}  // namespace thimble
