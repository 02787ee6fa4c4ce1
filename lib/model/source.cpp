// SPDX-License-Identifier: Apache-2.0
#include "model/source.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <unordered_set>

#include "core/error.h"
#include "format/weight_format.h"
#include "model/coded_tensor.h"
#include "model/config.h"
#include "model/factored_tensor.h"
#include "model/import.h"
#include "model/stacked_tensor.h"
#include "model/ternary_tensor.h"
#include "model/thresholds.h"

namespace thimble {
namespace {

// Tensors that only repeat what the config says.
constexpr std::string_view kDerived[] = {".rotary_emb.inv_freq", ".attn_rot_embd.weight"};

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
    return type == TensorType::kF32 || type == TensorType::kF16 || type == TensorType::kBF16 ||
           type == TensorType::kF64;
}

}  // namespace

std::string tensor_name(std::string_view pattern, std::int64_t layer) {
    const std::size_t at = pattern.find('#');
    if (at == std::string_view::npos) return std::string(pattern);
    return std::string(pattern.substr(0, at)) + std::to_string(layer) +
           std::string(pattern.substr(at + 1));
}

static std::int64_t extent(Extent e, std::int64_t layer, const ModelConfig& c) {
    const LayerSizes sizes = c.sizes_of(layer);
    switch (e) {
        case Extent::kOne:
            return 1;
        case Extent::kVocab:
            return c.vocab;
        case Extent::kHidden:
            return c.hidden;
        case Extent::kFfn:
            return sizes.ffn;
        case Extent::kTwoFfn:
            return 2 * sizes.ffn;
        case Extent::kLayers:
            return c.layers;
        case Extent::kQueries:
            return sizes.heads * c.head_dim;
        case Extent::kKeys:
            return sizes.kv_heads * c.head_dim;
        case Extent::kHeadDim:
            return c.head_dim;
        case Extent::kRopePairs:
            return c.rope_dims / 2;
    }
    return 0;
}

std::vector<std::uint64_t> tensor_dims(const TensorRule& rule, std::int64_t layer,
                                       const ModelConfig& config) {
    std::vector<std::uint64_t> dims;
    if (rule.rows != Extent::kOne)
        dims.push_back(static_cast<std::uint64_t>(extent(rule.rows, layer, config)));
    dims.push_back(static_cast<std::uint64_t>(extent(rule.cols, layer, config)));
    return dims;
}

std::unique_ptr<ModelSource> ModelSource::open(const std::string& path) {
    return std::make_unique<ModelSource>(ModelFile::open(path));
}

ModelSource::ModelSource(std::unique_ptr<ModelFile> file)
    : file_(std::move(file)), architecture_(&architecture_of(*file_)) {
    config_ = read_config(*file_, *architecture_);
    const std::unique_ptr<Importer> importer = open_importer(*file_);
    const auto rules = architecture_->tensors;
    const auto first = std::find_if(rules.begin(), rules.end(), is_per_layer);
    const auto last = std::find_if_not(first, rules.end(), is_per_layer);
    for (auto rule = rules.begin(); rule != first; ++rule) add_tensors(*rule, 0, importer.get());
    for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
        for (auto rule = first; rule != last; ++rule) add_tensors(*rule, layer, importer.get());
    }
    for (auto rule = last; rule != rules.end(); ++rule) add_tensors(*rule, 0, importer.get());
    for (std::size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
    const auto is_packed = [](const SourceTensor& t) { return t.packed != nullptr; };
    if (importer && std::none_of(tensors_.begin(), tensors_.end(), is_packed)) {
        throw Error(Exit::kBadData, escaped(file_->path(), 1024) + ": key 'quantization_config'",
                    "names a method, but no matrix is stored in its manner");
    }
    refuse_unknown_tensors();
    build_spec();
    if (file_->container() == Container::kGguf) find_thresholds();
}

void ModelSource::add_tensors(const TensorRule& rule, std::int64_t layer,
                              const Importer* importer) {
    const bool hf = file_->container() == Container::kHuggingFace;
    const std::string stored = tensor_name(hf ? rule.hf : rule.gguf, layer);
    if (rule.presence == Presence::kUntied && config_.tied) return;

    SourceTensor tensor;
    tensor.name = tensor_name(rule.gguf, layer);
    tensor.rule = &rule;
    tensor.layer = layer;
    tensor.is_matrix = rule.rows != Extent::kOne && rule.rows != Extent::kLayers;
    tensor.dims = tensor_dims(rule, layer, config_);

    if (stored.empty()) {
        tensor.values = frequency_divisors(config_);
        tensor.form = block_form(LayoutId::k_f32, {1, tensor.cols()});
        if (!tensor.values.empty()) tensors_.push_back(std::move(tensor));
        return;
    }
    find_stored(stored, importer, tensor);
    if (!tensor.is_stored()) {
        if (rule.presence == Presence::kOptional) return;
        throw Error(Exit::kBadData, escaped(file_->path(), 1024),
                    "tensor '" + stored + "' is missing");
    }
    if (hf &&
        (rule.transform == HfTransform::kPairQueries || rule.transform == HfTransform::kPairKeys)) {
        tensor.source_row = [dim = config_.head_dim](std::int64_t r) { return halves_row(r, dim); };
    }
    if (hf && rule.transform == HfTransform::kPlusOne) tensor.add = 1;
    if (hf && rule.transform == HfTransform::kTernary && tensor.entry) {
        tensor.packed = make_ternary_tensor(*tensor.entry, tensor.form.layout);
        tensor.form = tensor.packed->form();
        tensor.entry = nullptr;
    }
    tensors_.push_back(std::move(tensor));
}

void ModelSource::find_stored(const std::string& stored, const Importer* importer,
                              SourceTensor& tensor) {
    constexpr std::string_view kWeight = ".weight";
    const Shape2 shape{tensor.rows(), tensor.cols()};
    if (tensor.is_matrix && importer != nullptr && stored.ends_with(kWeight)) {
        tensor.packed = importer->find(stored.substr(0, stored.size() - kWeight.size()), shape);
    } else if (tensor.is_matrix && file_->container() == Container::kGguf) {
        tensor.packed = find_stored_planes(*file_, stored, shape);
    }
    if (factored_of(tensor) != nullptr && architecture_->input_norm_epsilon > 0) {
        throw Error(Exit::kBadData, escaped(file_->path(), 1024),
                    "tensor '" + stored + "' is in factors, and its input is coded");
    }
    if (tensor.packed) {
        tensor.form = tensor.packed->form();
    } else {
        find_plain(stored, tensor);
    }
}

void ModelSource::find_plain(const std::string& stored, SourceTensor& tensor) {
    tensor.entry = file_->find(stored);
    if (tensor.entry == nullptr) return;
    const std::string where = escaped(file_->path(), 1024);
    const TensorEntry& entry = *tensor.entry;
    if (entry.dims != tensor.dims) {
        throw Error(Exit::kBadData, where,
                    "tensor '" + stored + "' has shape " + text(entry.dims) +
                        ", the config wants " + text(tensor.dims));
    }
    const auto layout = layout_of(entry.type);
    if (!layout || (!tensor.is_matrix && !is_plain(entry.type))) {
        const TensorTypeInfo* info = find_tensor_type(entry.type);
        throw Error(Exit::kBadData, where,
                    "tensor '" + stored + "' has type " +
                        std::string(info ? info->name : std::string_view("?")) +
                        ", which is not supported here");
    }
    tensor.form = block_form(*layout, {tensor.rows(), tensor.cols()});
}

void ModelSource::refuse_unknown_tensors() const {
    std::unordered_set<const TensorEntry*> used;
    for (const SourceTensor& tensor : tensors_) {
        used.insert(tensor.entry);
        if (tensor.packed)
            used.insert(tensor.packed->entries().begin(), tensor.packed->entries().end());
    }
    const bool hf = file_->container() == Container::kHuggingFace;
    for (const TensorEntry& entry : file_->tensors()) {
        if (used.count(&entry) > 0) continue;
        if (hf && config_.tied && entry.name == "lm_head.weight") continue;
        const bool derived = std::any_of(std::begin(kDerived), std::end(kDerived), [&](auto end) {
            return entry.name.size() > end.size() && entry.name.ends_with(end);
        });
        if (derived || entry.name.starts_with(kSharedPrefix)) continue;
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
    for (std::int64_t layer = 0; layer < c.layers; ++layer) spec_.all_ffn += c.sizes_of(layer).ffn;
    spec_.vocab = c.vocab;
    spec_.context_tokens = c.context_tokens;
    spec_.norm_epsilon = c.norm_epsilon;
    spec_.embedding_scale = a.scaled_embedding ? std::sqrt(static_cast<double>(c.hidden)) : 1;
    spec_.gate = a.gate;
    spec_.qk_norm = a.qk_norm;
    spec_.post_norms = a.post_norms;
    spec_.tied_embedding = c.tied;
    spec_.input_norm_epsilon = a.input_norm_epsilon;
    spec_.sublayers.assign(a.sublayers.begin(), a.sublayers.end());

    if (a.recurrence) {
        spec_.recurrent.assign(static_cast<std::size_t>(c.layers), {.channels = c.hidden});
        read_lower_bounds();
    }
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
        const LayerSizes sizes = c.sizes_of(std::ssize(spec_.attention));
        AttentionSpec attention;
        attention.shape = {static_cast<int>(sizes.kv_heads), static_cast<int>(sizes.heads),
                           static_cast<int>(c.head_dim), windowed ? c.window : 0};
        attention.rope = {a.rope_style, static_cast<int>(c.rope_dims),
                          windowed ? c.rope_base_local : c.rope_base,
                          windowed ? 1 : 1 / c.rope_factor, *spec_.rope_factors};
        attention.scale = c.attention_scale;
        spec_.attention.push_back(attention);
    }
}

// Of layer l: the sum of the softmax over layers, up to l, without the first layer's part.
// "Scalable MatMul-free Language Modeling" (2024), after "Hierarchically Gated Recurrent Neural
// Network for Sequence Modeling" (2023).
void ModelSource::read_lower_bounds() {
    const SourceTensor& stored = *find("lower_bounds.weight");
    const auto layers = static_cast<std::size_t>(config_.layers);
    const auto width = static_cast<std::size_t>(config_.hidden);
    std::vector<float> raw(layers * width);
    std::vector<std::byte> scratch;
    read_rows(stored, 0, config_.layers, raw.data(), scratch);
    for (const float x : raw) {
        if (std::isfinite(x)) continue;
        throw Error(Exit::kBadData, escaped(file_->path(), 1024),
                    "tensor 'lower_bounds.weight' has a value that is not a finite number");
    }
    spec_.lower_bounds.assign(raw.size(), 0);
    for (std::size_t c = 0; c < width; ++c) {
        double top = -HUGE_VAL, sum = 0, bound = 0;
        for (std::size_t l = 0; l < layers; ++l)
            top = std::max(top, static_cast<double>(raw[l * width + c]));
        const auto weight = [&](std::size_t l) {
            return std::exp(static_cast<double>(raw[l * width + c]) - top);
        };
        for (std::size_t l = 0; l < layers; ++l) sum += weight(l);
        for (std::size_t l = 1; l < layers; ++l) {
            bound += weight(l) / sum;
            spec_.lower_bounds[l * width + c] = bound;
        }
    }
}

void ModelSource::find_thresholds() {
    std::vector<std::int64_t> channels;
    for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
        const SourceTensor* down = find(tensor_name("blk.#.ffn_down.weight", layer));
        channels.push_back(down != nullptr ? down->cols() : 0);
    }
    std::optional<Thresholds> stored = read_thresholds(file_->metadata(), channels);
    if (!stored) return;
    if (find(tensor_name("blk.#.ffn_up.weight", 0)) == nullptr) {
        throw Error(Exit::kBadData, escaped(file_->path(), 1024),
                    "has thresholds for activations, and no blocks that take them");
    }
    for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
        SourceTensor tensor;
        tensor.name = tensor_name("blk.#.ffn_thresholds", layer);
        tensor.layer = layer;
        tensor.values = std::move((*stored)[static_cast<std::size_t>(layer)]);
        tensor.dims = {tensor.values.size()};
        tensor.form = block_form(LayoutId::k_f32, {1, tensor.cols()});
        thresholds_.push_back(std::move(tensor));
    }
    set_skips(true);
}

void ModelSource::set_skips(bool on) {
    for (SourceTensor& tensor : tensors_) {
        const auto is = [&](std::string_view pattern) {
            return tensor.name == tensor_name(pattern, tensor.layer);
        };
        if (is("blk.#.ffn_up.weight")) tensor.skips = on ? Skips::kOutputs : Skips::kNothing;
        if (is("blk.#.ffn_down.weight")) tensor.skips = on ? Skips::kInputs : Skips::kNothing;
    }
}

void ModelSource::drop_thresholds() {
    thresholds_.clear();
    set_skips(false);
}

const SourceTensor* ModelSource::find(std::string_view name) const noexcept {
    const auto at = index_.find(name);
    return at == index_.end() ? nullptr : &tensors_[at->second];
}

void ModelSource::read_plane(const SourceTensor& tensor, std::size_t plane, RowRange rows,
                             std::span<std::byte> out) const {
    const std::size_t row_bytes = tensor.form.planes[plane].row_bytes;
    const auto read = [&](RowRange range, std::span<std::byte> to) {
        if (tensor.packed) {
            tensor.packed->read(*file_, plane, range, to);
        } else {
            file_->read(*tensor.entry, static_cast<std::uint64_t>(range.first) * row_bytes, to);
        }
    };
    if (!tensor.is_matrix || !tensor.source_row || row_bytes == 0) return read(rows, out);
    const std::int64_t end = rows.first + rows.count;
    if (!tensor.packed) {
        for (std::int64_t r = rows.first; r < end; ++r) {
            const std::size_t at = static_cast<std::size_t>(r - rows.first) * row_bytes;
            read({tensor.source_row(r), 1}, out.subspan(at, row_bytes));
        }
        return;
    }
    // A row of a packed matrix lies all over its file. Rows change places within their head only,
    // so a head is read at once.
    const std::int64_t head = config_.head_dim;
    std::vector<std::byte> stored(static_cast<std::size_t>(head) * row_bytes);
    for (std::int64_t r = rows.first; r < end;) {
        const std::int64_t first = r - r % head;
        read({first, head}, stored);
        for (; r < std::min(first + head, end); ++r) {
            const auto at = static_cast<std::size_t>(tensor.source_row(r) - first) * row_bytes;
            std::memcpy(out.data() + static_cast<std::size_t>(r - rows.first) * row_bytes,
                        stored.data() + at, row_bytes);
        }
    }
}

PackedView ModelSource::read_packed(const SourceTensor& tensor, std::int64_t first,
                                    std::int64_t count, std::byte* out) const {
    const PackedForm& form = tensor.form;
    for (std::size_t p = 0; p < form.planes.size(); ++p) {
        const std::size_t bytes = form.plane_bytes(p, count);
        if (form.planes[p].bytes == 0) continue;
        read_plane(tensor, p, {first, count}, {out + form.plane_offset(p, count), bytes});
    }
    const PackedView view = form.view({count, tensor.cols()}, out);
    if (form.planes.size() > 1) format_of(form.layout).verify(view, {0, count}, first);
    return view;
}

template <class Real>
void ModelSource::read(const SourceTensor& tensor, std::int64_t first, std::int64_t count,
                       Real* out, std::vector<std::byte>& scratch) const {
    if (count == 0) return;
    constexpr DType kType = sizeof(Real) == sizeof(double) ? DType::kF64 : DType::kF32;
    const std::int64_t cols = tensor.cols();
    if (!tensor.is_stored()) {
        std::copy(tensor.values.begin(), tensor.values.end(), out);
        return;
    }
    scratch.resize(tensor.form.bytes(count));
    try {
        const PackedView packed = read_packed(tensor, first, count, scratch.data());
        format_of(packed.layout).decode(packed, {0, count}, {out, kType, count, cols, cols});
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData) throw;
        throw Error(e.exit(),
                    escaped(file_->path(), 1024) + ": tensor '" + tensor.name + "', " + e.where(),
                    e.problem(), e.hint());
    }
    if (!tensor.is_matrix && tensor.source_row) {
        const std::vector<Real> stored(out, out + cols);
        for (std::int64_t i = 0; i < cols; ++i) {
            out[i] = stored[static_cast<std::size_t>(tensor.source_row(i))];
        }
    }
    if (tensor.add == 0) return;
    for (std::int64_t i = 0; i < count * cols; ++i) out[i] += static_cast<Real>(tensor.add);
}

void ModelSource::read_rows(const SourceTensor& tensor, std::int64_t first, std::int64_t count,
                            float* out, std::vector<std::byte>& scratch) const {
    read(tensor, first, count, out, scratch);
}

void ModelSource::read_rows(const SourceTensor& tensor, std::int64_t first, std::int64_t count,
                            double* out, std::vector<std::byte>& scratch) const {
    read(tensor, first, count, out, scratch);
}

Metadata ModelSource::gguf_metadata() const {
    Metadata metadata;
    if (file_->container() == Container::kGguf) {
        metadata = file_->metadata();
        for (const SourceTensor& tensor : tensors_) {
            if (tensor.packed) metadata.erase(std::string(kFormatKey) + tensor.name);
        }
        for (const std::string_view key : {kStackLinearsKey, kStackOrderKey, kLosslessKey})
            metadata.erase(key);
        return metadata;
    }
    metadata.set("general.architecture", spec_.architecture);
    metadata.set("general.type", std::string("model"));
    metadata.set("general.name", spec_.name);
    write_config(config_, *architecture_, metadata);
    return metadata;
}

}  // namespace thimble
