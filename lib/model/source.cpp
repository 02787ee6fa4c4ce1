// SPDX-License-Identifier: Apache-2.0
#include "model/source.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <unordered_set>

#include "core/error.h"
#include "format/weight_format.h"
#include "model/config.h"

namespace thimble {
namespace {

// Tensors that only repeat what the config says.
constexpr std::string_view kDerived[] = {".rotary_emb.inv_freq", ".attn_rot_embd.weight"};

std::int64_t extent(Extent e, const ModelConfig& c) {
    switch (e) {
        case Extent::kOne:
            return 1;
        case Extent::kVocab:
            return c.vocab;
        case Extent::kHidden:
            return c.hidden;
        case Extent::kFfn:
            return c.ffn;
        case Extent::kQueries:
            return c.heads * c.head_dim;
        case Extent::kKeys:
            return c.kv_heads * c.head_dim;
        case Extent::kHeadDim:
            return c.head_dim;
        case Extent::kRopePairs:
            return c.rope_dims / 2;
    }
    return 0;
}

bool is_per_layer(const TensorRule& rule) { return rule.gguf.find('#') != std::string_view::npos; }

std::string text(const std::vector<std::uint64_t>& dims) {
    std::string out = "[";
    for (const std::uint64_t d : dims) {
        if (out.size() > 1) out += ", ";
        out += std::to_string(d);
    }
    return out + "]";
}

// Pairs (j, j + dim/2) of each head become neighbours (2j, 2j + 1).
std::int64_t halves_row(std::int64_t row, std::int64_t head_dim) {
    const std::int64_t in_head = row % head_dim;
    return row - in_head + (in_head % 2) * (head_dim / 2) + in_head / 2;
}

bool is_plain(TensorType type) {
    return type == TensorType::kF32 || type == TensorType::kF16 || type == TensorType::kBF16;
}

}  // namespace

std::string tensor_name(std::string_view pattern, std::int64_t layer) {
    const std::size_t at = pattern.find('#');
    if (at == std::string_view::npos) return std::string(pattern);
    return std::string(pattern.substr(0, at)) + std::to_string(layer) +
           std::string(pattern.substr(at + 1));
}

std::unique_ptr<ModelSource> ModelSource::open(const std::string& path) {
    return std::make_unique<ModelSource>(ModelFile::open(path));
}

ModelSource::ModelSource(std::unique_ptr<ModelFile> file)
    : file_(std::move(file)), architecture_(&architecture_of(*file_)) {
    config_ = read_config(*file_, *architecture_);
    const auto rules = architecture_->tensors;
    const auto first = std::find_if(rules.begin(), rules.end(), is_per_layer);
    const auto last = std::find_if_not(first, rules.end(), is_per_layer);
    for (auto rule = rules.begin(); rule != first; ++rule) add_tensors(*rule, 0);
    for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
        for (auto rule = first; rule != last; ++rule) add_tensors(*rule, layer);
    }
    for (auto rule = last; rule != rules.end(); ++rule) add_tensors(*rule, 0);
    for (std::size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
    refuse_unknown_tensors();
    build_spec();
}

void ModelSource::add_tensors(const TensorRule& rule, std::int64_t layer) {
    const bool hf = file_->container() == Container::kHuggingFace;
    const std::string stored = tensor_name(hf ? rule.hf : rule.gguf, layer);
    if (rule.presence == Presence::kUntied && config_.tied) return;

    SourceTensor tensor;
    tensor.name = tensor_name(rule.gguf, layer);
    tensor.rule = &rule;
    tensor.layer = layer;
    tensor.is_matrix = rule.rows != Extent::kOne;
    if (tensor.is_matrix) {
        tensor.dims.push_back(static_cast<std::uint64_t>(extent(rule.rows, config_)));
    }
    tensor.dims.push_back(static_cast<std::uint64_t>(extent(rule.cols, config_)));

    if (stored.empty()) {
        tensor.values = frequency_divisors(config_);
        if (!tensor.values.empty()) tensors_.push_back(std::move(tensor));
        return;
    }
    tensor.entry = file_->find(stored);
    const std::string where = escaped(file_->path(), 1024);
    if (tensor.entry == nullptr) {
        if (rule.presence == Presence::kOptional) return;
        throw Error(Exit::kBadData, where, "tensor '" + stored + "' is missing");
    }
    const TensorEntry& entry = *tensor.entry;
    if (entry.dims != tensor.dims) {
        throw Error(Exit::kBadData, where,
                    "tensor '" + stored + "' has shape " + text(entry.dims) +
                        ", the config wants " + text(tensor.dims));
    }
    if (!layout_of(entry.type) || (!tensor.is_matrix && !is_plain(entry.type))) {
        const TensorTypeInfo* info = find_tensor_type(entry.type);
        throw Error(Exit::kBadData, where,
                    "tensor '" + stored + "' has type " +
                        std::string(info ? info->name : std::string_view("?")) +
                        ", which is not supported here");
    }
    if (hf &&
        (rule.transform == HfTransform::kPairQueries || rule.transform == HfTransform::kPairKeys)) {
        tensor.source_row = [dim = config_.head_dim](std::int64_t r) { return halves_row(r, dim); };
    }
    if (hf && rule.transform == HfTransform::kPlusOne) tensor.add = 1;
    tensors_.push_back(std::move(tensor));
}

void ModelSource::refuse_unknown_tensors() const {
    std::unordered_set<const TensorEntry*> used;
    for (const SourceTensor& tensor : tensors_) used.insert(tensor.entry);
    const bool hf = file_->container() == Container::kHuggingFace;
    for (const TensorEntry& entry : file_->tensors()) {
        if (used.count(&entry) > 0) continue;
        if (hf && config_.tied && entry.name == "lm_head.weight") continue;
        const bool derived = std::any_of(std::begin(kDerived), std::end(kDerived), [&](auto end) {
            return entry.name.size() > end.size() && entry.name.ends_with(end);
        });
        if (derived) continue;
        throw Error(Exit::kBadData, escaped(file_->path(), 1024),
                    "tensor '" + escaped(entry.name) + "' is not part of a " +
                        std::string(architecture_->id) + " model of " +
                        std::to_string(config_.layers) + " layers");
    }
}

void ModelSource::build_spec() {
    const ModelConfig& c = config_;
    const Architecture& a = *architecture_;
    spec_.architecture = a.id;
    spec_.name = file_->metadata().find_string("general.name").value_or("");
    if (spec_.name.empty()) {
        spec_.name = std::filesystem::absolute(file_->path()).lexically_normal().stem().string();
    }
    spec_.layers = c.layers;
    spec_.hidden = c.hidden;
    spec_.ffn = c.ffn;
    spec_.vocab = c.vocab;
    spec_.context_tokens = c.context_tokens;
    spec_.norm_epsilon = c.norm_epsilon;
    spec_.embedding_scale = a.scaled_embedding ? std::sqrt(static_cast<double>(c.hidden)) : 1;
    spec_.gate = a.gate;
    spec_.qk_norm = a.qk_norm;
    spec_.post_norms = a.post_norms;
    spec_.tied_embedding = c.tied;
    spec_.sublayers.assign(a.sublayers.begin(), a.sublayers.end());

    std::vector<float> factors;
    if (const SourceTensor* stored = find("rope_freqs.weight")) {
        std::vector<std::byte> scratch;
        factors.resize(static_cast<std::size_t>(stored->cols()));
        read_rows(*stored, 0, 1, factors.data(), scratch);
        for (const float f : factors) {
            if (f > 0 && std::isfinite(f)) continue;
            throw Error(Exit::kBadData, escaped(file_->path(), 1024),
                        "tensor 'rope_freqs.weight' has a value that is not a positive number");
        }
    }
    spec_.rope_factors = std::make_shared<const std::vector<float>>(std::move(factors));
    for (const bool windowed : c.windowed) {
        AttentionSpec attention;
        attention.shape = {static_cast<int>(c.kv_heads), static_cast<int>(c.heads),
                           static_cast<int>(c.head_dim), windowed ? c.window : 0};
        attention.rope = {a.rope_style, static_cast<int>(c.rope_dims),
                          windowed ? c.rope_base_local : c.rope_base,
                          windowed ? 1 : 1 / c.rope_factor, *spec_.rope_factors};
        attention.scale = c.attention_scale;
        spec_.attention.push_back(attention);
    }
}

const SourceTensor* ModelSource::find(std::string_view name) const noexcept {
    const auto at = index_.find(name);
    return at == index_.end() ? nullptr : &tensors_[at->second];
}

void ModelSource::read_stored_rows(const SourceTensor& tensor, std::int64_t first,
                                   std::int64_t count, std::span<std::byte> out) const {
    const std::size_t row_bytes = out.size() / static_cast<std::size_t>(count);
    if (!tensor.is_matrix || !tensor.source_row) {
        file_->read(*tensor.entry, static_cast<std::uint64_t>(first) * row_bytes, out);
        return;
    }
    for (std::int64_t r = 0; r < count; ++r) {
        const auto stored = static_cast<std::uint64_t>(tensor.source_row(first + r));
        file_->read(*tensor.entry, stored * row_bytes,
                    out.subspan(static_cast<std::size_t>(r) * row_bytes, row_bytes));
    }
}

void ModelSource::read_rows(const SourceTensor& tensor, std::int64_t first, std::int64_t count,
                            float* out, std::vector<std::byte>& scratch) const {
    if (count == 0) return;
    const std::int64_t cols = tensor.cols();
    if (tensor.entry == nullptr) {
        std::memcpy(out, tensor.values.data(), tensor.values.size() * sizeof(float));
        return;
    }
    const LayoutId layout = *layout_of(tensor.type());
    const LayoutInfo& info = layout_info(layout);
    const std::size_t row_bytes =
        static_cast<std::size_t>(cols / info.block_elements) * info.block_bytes;
    scratch.resize(row_bytes * static_cast<std::size_t>(count));
    read_stored_rows(tensor, first, count, scratch);
    PackedView packed;
    packed.layout = layout;
    packed.shape = {count, cols};
    packed.planes[0] = {scratch.data(), row_bytes, scratch.size()};
    packed.n_planes = 1;
    format_of(layout).decode(packed, {0, count}, {out, DType::kF32, count, cols, cols});
    if (!tensor.is_matrix && tensor.source_row) {
        const std::vector<float> stored(out, out + cols);
        for (std::int64_t i = 0; i < cols; ++i) {
            out[i] = stored[static_cast<std::size_t>(tensor.source_row(i))];
        }
    }
    if (tensor.add != 0) {
        for (std::int64_t i = 0; i < count * cols; ++i) out[i] += tensor.add;
    }
}

Metadata ModelSource::gguf_metadata() const {
    if (file_->container() == Container::kGguf) return file_->metadata();
    Metadata metadata;
    metadata.set("general.architecture", spec_.architecture);
    metadata.set("general.type", std::string("model"));
    metadata.set("general.name", spec_.name);
    write_config(config_, *architecture_, metadata);
    return metadata;
}

}  // namespace thimble
