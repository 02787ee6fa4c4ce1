// SPDX-License-Identifier: Apache-2.0
#include "quant/hf_output.h"

#include <algorithm>
#include <map>
#include <utility>

#include "core/error.h"
#include "model/hf_export.h"

namespace thimble {
namespace {

bool is_plain(LayoutId layout) { return layout_info(layout).block_elements == 1; }

// The format of most weights.
LayoutId main_layout(const std::vector<TensorChoice>& choices) {
    std::map<LayoutId, std::int64_t> weights;
    for (const TensorChoice& c : choices)
        if (c.tensor->is_matrix) weights[c.layout()] += c.tensor->rows() * c.tensor->cols();
    const auto most =
        std::max_element(weights.begin(), weights.end(),
                         [](const auto& a, const auto& b) { return a.second < b.second; });
    return most == weights.end() ? LayoutId::k_f32 : most->first;
}

SafetensorsOptions options_of(std::uint64_t max_shard_bytes, const std::string& steps,
                              IfExists if_exists = IfExists::kRefuse, std::string build = {}) {
    SafetensorsOptions options;
    options.max_shard_bytes = max_shard_bytes;
    options.metadata.emplace_back("thimble.steps", steps);
    options.if_exists = if_exists;
    options.build = std::move(build);
    return options;
}

}  // namespace

HfOutput::HfOutput(const ModelSource& source, std::vector<TensorChoice>& choices, bool keeps_types)
    : tensors_(hf_tensors(source)) {
    if (!source.thresholds().empty()) {
        throw Error(Exit::kUsage, escaped(source.file().path(), 1024),
                    "drops small activations by thresholds, which a checkpoint has no place for",
                    "write a GGUF file, or the model that it was pruned from");
    }
    const LayoutId main = main_layout(choices);
    const auto place = [](const SourceTensor& tensor) {
        return std::pair(tensor.rule, tensor.layer);
    };
    std::map<std::pair<const TensorRule*, std::int64_t>, const TensorChoice*> chosen;
    for (const TensorChoice& choice : choices) chosen.emplace(place(*choice.tensor), &choice);
    std::vector<TensorChoice> out;
    for (const SourceTensor& tensor : tensors_) {
        TensorChoice choice = *chosen.at(place(tensor));
        const bool as_read = choice.layout() == choice.tensor->layout();
        choice.tensor = &tensor;
        const LayoutId stored = tensor.layout();
        if (!tensor.is_matrix) choice.format = shared_format_of(keeps_types ? stored : main);
        if (tensor.is_matrix && keeps_types && as_read) choice.format = shared_format_of(stored);
        if (tensor.rule->transform == HfTransform::kTernary && tensor.packed &&
            choice.layout() != LayoutId::k_f32) {
            throw Error(Exit::kUsage, "tensor '" + escaped(tensor.name) + "'",
                        "is ternary, and a checkpoint says its scale by the mean of its weights: "
                        "16 bits would change that",
                        "give --format f32");
        }
        if (!is_plain(choice.layout())) {
            throw Error(Exit::kUsage, "tensor '" + escaped(tensor.name) + "'",
                        "would be " + std::string(layout_info(choice.layout()).name) +
                            "; a Hugging Face directory is written with f16, bf16 or f32 weights",
                        "give --format f16, bf16 or f32");
        }
        choice.copied =
            !choice.rewritten() && tensor.is_matrix && stored == choice.layout() && tensor.add == 0;
        out.push_back(std::move(choice));
    }
    // As safetensors holds them, widest types first: checkpoints cover what is written in order.
    std::stable_sort(out.begin(), out.end(), [](const TensorChoice& a, const TensorChoice& b) {
        return layout_info(a.layout()).block_bytes > layout_info(b.layout()).block_bytes;
    });
    choices = std::move(out);
    files_ = std::make_unique<HfSideFiles>(source, *tensor_type_of(main_layout(choices)));
}

HfOutput::Size HfOutput::predict(const std::string& path, const std::vector<TensorSpec>& specs,
                                 std::uint64_t max_shard_bytes, const std::string& steps) const {
    const auto weights =
        SafetensorsWriter::predict(path, specs, options_of(max_shard_bytes, steps));
    return {weights.file_bytes + total_bytes(files_->files()),
            std::max<std::uint64_t>(weights.header_bytes, kSideBufferBytes)};
}

std::unique_ptr<TensorWriter> HfOutput::open(const std::string& path,
                                             const std::vector<TensorSpec>& specs,
                                             std::uint64_t max_shard_bytes,
                                             const std::string& steps, IfExists if_exists,
                                             const std::string& build) const {
    return std::make_unique<HfDirectoryWriter>(
        path, specs, files_->files(), options_of(max_shard_bytes, steps, if_exists, build));
}

}  // namespace thimble
