// SPDX-License-Identifier: Apache-2.0
#include "model/hf_export.h"

#include <algorithm>

#include "core/error.h"
#include "format/weight_format.h"
#include "model/config.h"
#include "model/ternary_tensor.h"

namespace thimble {
namespace {

// Neighbours (2j, 2j + 1) of each head become pairs (j, j + dim/2) again.
std::int64_t pairs_row(std::int64_t row, std::int64_t head_dim) {
    const std::int64_t in_head = row % head_dim, half = head_dim / 2;
    return row - in_head + (in_head < half ? 2 * in_head : 2 * (in_head - half) + 1);
}

std::string_view dtype_name(TensorType type) {
    if (type == TensorType::kF16) return "float16";
    if (type == TensorType::kF64) return "float64";
    return type == TensorType::kBF16 ? "bfloat16" : "float32";
}

// transformers makes all biases of a group, or none.
void set_biases(const ModelSource& source, Json& config) {
    for (const HfBiases& biases : source.architecture().hf_biases) {
        std::int64_t wanted = 0, found = 0;
        for (const TensorRule& rule : source.architecture().tensors) {
            if (rule.gguf.starts_with(biases.gguf) && rule.gguf.ends_with(".bias"))
                wanted += source.config().layers;
        }
        for (const SourceTensor& tensor : source.tensors()) {
            if (tensor.rule->gguf.starts_with(biases.gguf) && tensor.rule->gguf.ends_with(".bias"))
                ++found;
        }
        if (found != 0 && found != wanted) {
            throw Error(Exit::kBadData, escaped(source.file().path(), 1024),
                        std::to_string(found) + " of " + std::to_string(wanted) + " tensors '" +
                            std::string(biases.gguf) + "*.bias' are there",
                        "a config.json of this architecture can only say all or none");
        }
        config.set(std::string(biases.key), found != 0);
    }
}

// What scales the rotation is a tensor in GGUF, numbers in config.json.
void find_bands(const ModelSource& source, ModelConfig& config) {
    const std::vector<float>& divisors = *source.spec().rope_factors;
    const bool scales =
        std::any_of(divisors.begin(), divisors.end(), [](float d) { return d != 1; });
    if (!scales) return;
    config.rope_bands = find_frequency_bands(config, divisors);
    if (config.rope_bands) return;
    throw Error(Exit::kBadData, escaped(source.file().path(), 1024),
                "tensor 'rope_freqs.weight' does not scale as Llama 3 does",
                "a config.json cannot hold other factors");
}

}  // namespace

std::vector<SourceTensor> hf_tensors(const ModelSource& source) {
    const bool stored_so = source.file().container() == Container::kHuggingFace;
    std::vector<SourceTensor> out;
    for (const SourceTensor& tensor : source.tensors()) {
        const TensorRule& rule = *tensor.rule;
        if (rule.hf.empty()) continue;
        SourceTensor exported = tensor;
        exported.name = tensor_name(rule.hf, tensor.layer);
        exported.source_row = nullptr;
        exported.add = 0;
        if (!stored_so) exported.source_row = canonical_rows(tensor, source.config().head_dim);
        if (!stored_so && rule.transform == HfTransform::kPlusOne) exported.add = -1;
        if (rule.transform == HfTransform::kTernary) {
            exported.packed = stored_so ? nullptr : make_latent_tensor(source, tensor);
            exported.entry = stored_so ? tensor.packed->entries().front() : nullptr;
            exported.form = stored_so ? block_form(*layout_of(exported.entry->type),
                                                   {tensor.rows(), tensor.cols()})
                                      : exported.packed->form();
        }
        out.push_back(std::move(exported));
    }
    return out;
}

std::function<std::int64_t(std::int64_t)> canonical_rows(const SourceTensor& tensor,
                                                         std::int64_t head_dim) {
    const HfTransform transform = tensor.rule->transform;
    if (transform != HfTransform::kPairQueries && transform != HfTransform::kPairKeys) return {};
    return [head_dim](std::int64_t row) { return pairs_row(row, head_dim); };
}

Json hf_config(const ModelSource& source, TensorType dtype) {
    Json config = source.file().config();
    if (source.file().container() == Container::kGguf) {
        ModelConfig numbers = source.config();
        find_bands(source, numbers);
        config = write_hf_config(numbers, source.architecture());
        set_biases(source, config);
    }
    if (config.find("quantization_config") != nullptr) {  // weights are written decoded
        JsonMembers kept;
        for (const auto& member : config.as_members("config.json")) {
            if (member.first != "quantization_config") kept.push_back(member);
        }
        config = Json(std::move(kept));
    }
    const bool newer = config.find("dtype") != nullptr;
    config.set(newer ? "dtype" : "torch_dtype", dtype_name(dtype));
    return config;
}

}  // namespace thimble
