// SPDX-License-Identifier: Apache-2.0
#include "quant/hf_output.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <unordered_map>

#include "core/error.h"
#include "model/hf_export.h"

namespace thimble {
namespace {

bool is_plain(LayoutId layout) { return layout_info(layout).block_elements == 1; }

// The format of most weights.
LayoutId main_layout(const std::vector<TensorChoice>& choices) {
    std::map<LayoutId, std::int64_t> weights;
    for (const TensorChoice& c : choices)
        if (c.tensor->is_matrix) weights[c.layout] += c.tensor->rows() * c.tensor->cols();
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
    const LayoutId main = main_layout(choices);
    const auto stored_at = [](const SourceTensor& tensor) -> const void* {
        if (tensor.packed) return tensor.packed.get();
        return tensor.entry;
    };
    std::unordered_map<const void*, const TensorChoice*> chosen;
    for (const TensorChoice& choice : choices) chosen.emplace(stored_at(*choice.tensor), &choice);
    std::vector<TensorChoice> out;
    for (const SourceTensor& tensor : tensors_) {
        TensorChoice choice = *chosen.at(stored_at(tensor));
        choice.tensor = &tensor;
        const LayoutId stored = tensor.layout();
        if (!tensor.is_matrix) choice.layout = keeps_types ? stored : main;
        if (!is_plain(choice.layout)) {
            throw Error(Exit::kUsage, "tensor '" + escaped(tensor.name) + "'",
                        "would be " + std::string(layout_info(choice.layout).name) +
                            "; a Hugging Face directory is written with f16, bf16 or f32 weights",
                        "give --format f16, bf16 or f32");
        }
        choice.copied =
            !choice.merged && tensor.is_matrix && stored == choice.layout && tensor.add == 0;
        out.push_back(std::move(choice));
    }
    // As safetensors holds them, widest types first: checkpoints cover what is written in order.
    std::stable_sort(out.begin(), out.end(), [](const TensorChoice& a, const TensorChoice& b) {
        return layout_info(a.layout).block_bytes > layout_info(b.layout).block_bytes;
    });
    choices = std::move(out);
    add_config(source, choices);
}

void HfOutput::add_config(const ModelSource& source, const std::vector<TensorChoice>& choices) {
    Json config = hf_config(source, *tensor_type_of(main_layout(choices)));
    const std::string& path = source.file().path();
    if (source.file().container() == Container::kGguf) {
        add_tokenizer(source, config);
    } else if (std::filesystem::is_directory(path)) {
        files_ = side_files_of(path);
        std::erase_if(files_, [](const SideFile& file) { return file.name == "config.json"; });
    }
    files_.insert(files_.begin(), side_file("config.json", config.dump(2) + "\n"));
}

void HfOutput::add_tokenizer(const ModelSource& source, Json& config) {
    has_tokenizer_ = source.file().metadata().find("tokenizer.ggml.model") != nullptr;
    if (!has_tokenizer_) return;
    tokenizer_ = Tokenizer::open(source.file());
    tokenizer_files_ = tokenizer_->hf_files(source.spec().context_tokens);
    vocabulary_bytes_ = Tokenizer::predict_bytes(source.file()) + tokenizer_files_.held->bytes();
    Json generation = Json::object();
    generation.set("_from_model_config", true);
    for (const auto& [key, id] : tokenizer_files_.token_ids) {
        config.set(key, id);
        generation.set(key, id);
    }
    if (tokenizer_files_.end_ids.size() > 1) {
        JsonArray ends(tokenizer_files_.end_ids.begin(), tokenizer_files_.end_ids.end());
        generation.set("eos_token_id", std::move(ends));
    }
    files_.push_back(side_file("generation_config.json", generation.dump(2) + "\n"));
    for (SideFile& file : tokenizer_files_.files) files_.push_back(std::move(file));
}

HfOutput::Size HfOutput::predict(const std::string& path, const std::vector<TensorSpec>& specs,
                                 std::uint64_t max_shard_bytes, const std::string& steps) const {
    const auto weights =
        SafetensorsWriter::predict(path, specs, options_of(max_shard_bytes, steps));
    return {weights.file_bytes + total_bytes(files_),
            std::max<std::uint64_t>(weights.header_bytes, kSideBufferBytes)};
}

std::unique_ptr<TensorWriter> HfOutput::open(const std::string& path,
                                             const std::vector<TensorSpec>& specs,
                                             std::uint64_t max_shard_bytes,
                                             const std::string& steps, IfExists if_exists,
                                             const std::string& build) const {
    return std::make_unique<HfDirectoryWriter>(
        path, specs, files_, options_of(max_shard_bytes, steps, if_exists, build));
}

}  // namespace thimble
