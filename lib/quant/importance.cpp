// SPDX-License-Identifier: Apache-2.0
#include "quant/importance.h"

#include <filesystem>

#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "quant/mixes.h"

namespace thimble {
namespace {

constexpr std::string_view kNoEntry = "no entry";

std::string basename_of(const std::string& path) {
    return std::filesystem::path(path).filename().string();
}

bool is_encoded(const TensorChoice& choice) {
    return choice.tensor->is_matrix && !choice.copied &&
           layout_info(choice.layout()).block_elements > 1;
}

}  // namespace

std::optional<ColumnImportance> load_importance(const QuantizeOptions& options,
                                                const ModelSource& source) {
    if (options.imatrix.empty()) {
        if (options.include_weights.empty() && options.exclude_weights.empty()) return {};
        throw Error(Exit::kUsage,
                    options.include_weights.empty() ? "--exclude-weights" : "--include-weights",
                    "chooses entries of an importance matrix, and there is none",
                    "give --imatrix FILE");
    }
    ImportanceMatrix matrix = read_importance(options.imatrix);
    matrix.select(options.include_weights, options.exclude_weights);
    if (matrix.entries.empty())
        throw Error(Exit::kUsage, "--exclude-weights", "leaves no entry of the importance matrix");
    return std::make_optional<ColumnImportance>(std::move(matrix), source, options.imatrix);
}

void apply_importance(const ColumnImportance& importance, std::vector<TensorChoice>& choices) {
    for (TensorChoice& choice : choices) {
        if (!is_encoded(choice)) continue;
        choice.importance = importance.of(*choice.tensor);
        choice.no_importance = importance.absence(*choice.tensor);
    }
}

void require_importance(const std::vector<TensorChoice>& choices, const QuantizeOptions& options) {
    const Mix* mix = find_mix(to_lower(options.format));
    for (const TensorChoice& choice : choices) {
        if (!is_encoded(choice) || !choice.importance.empty()) continue;
        const auto type = tensor_type_of(choice.layout());
        if (!type || !needs_importance(mix, *type, choice.tensor->name)) continue;
        const std::string format = choice.format_name();
        const std::string what = format + " is of no use without importance of the columns";
        if (options.imatrix.empty()) {
            throw Error(Exit::kUsage, "tensor '" + choice.tensor->name + "'",
                        what + ", and there is none",
                        "give --imatrix FILE, which quantize --collect-imatrix makes");
        }
        throw Error(Exit::kUsage, "tensor '" + choice.tensor->name + "'",
                    what + ", and --imatrix has none: " + choice.no_importance,
                    "give it another format: --tensor-type '" + choice.tensor->name + "=q4_k'");
    }
}

void warn_of_importance(const ColumnImportance& importance,
                        const std::vector<TensorChoice>& choices, const std::string& file) {
    const std::string name = escaped(basename_of(file));
    for (const TensorChoice& choice : choices) {
        if (choice.no_importance.empty() || choice.no_importance == kNoEntry) continue;
        log_warning(name + ": '" + choice.tensor->name + "': " + choice.no_importance +
                    "; it is encoded without importance");
    }
    for (const std::string& entry : importance.foreign())
        log_warning(name + ": entry '" + escaped(entry) + "' belongs to no matrix of the model");
}

void set_importance_keys(Metadata& metadata, const ColumnImportance& importance,
                         const std::string& file) {
    metadata.set("quantize.imatrix.file", basename_of(file));
    if (!importance.datasets().empty())
        metadata.set("quantize.imatrix.dataset", importance.datasets().front());
    metadata.set("quantize.imatrix.entries_count",
                 static_cast<std::uint32_t>(importance.entries()));
    if (importance.chunks() > 0) {
        metadata.set("quantize.imatrix.chunks_count",
                     static_cast<std::uint32_t>(importance.chunks()));
    }
}

}  // namespace thimble
