// SPDX-License-Identifier: Apache-2.0
#include "model/config.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/strings.h"
#include "model/config_keys.h"
#include "model/packed_tensor.h"

namespace thimble {
namespace {

// Keys that would change what the model computes in ways that no block here does; zero, false and
// null mean "not used".
constexpr ConfigKey kUnsupported[] = {
    {"expert_count", "num_local_experts"},
    {"final_logit_softcapping", "final_logit_softcapping"},
    {"attn_logit_softcapping", "attn_logit_softcapping"},
    {"", "use_bidirectional_attention"},
};

void refuse_unsupported(const ConfigReader& reader) {
    for (const ConfigKey& key : kUnsupported) {
        if (!reader.has(key)) continue;
        bool used = true;
        if (reader.hf()) {
            const Json& value = *reader.json(key.hf);
            if (value.is_bool()) used = value.as_bool(key.hf);
            if (value.is_number()) used = value.as_double(key.hf) != 0;
        } else {
            used = reader.find_number(key, -1e300, 1e300) != 0;
        }
        if (used) reader.fail(key, "asks for something that is not supported");
    }
}

void refuse_other_values(const ConfigReader& reader, const Architecture& a) {
    for (const HfFixed& fixed : a.hf_fixed) {
        const Json* value = reader.json(fixed.key);
        if (value == nullptr) continue;
        const double number = value->is_bool() ? (value->as_bool("") ? 1 : 0)
                                               : value->as_double(reader.where({"", fixed.key}));
        if (number == static_cast<double>(fixed.value)) continue;
        reader.fail({"", fixed.key}, "is " + value->dump() + ": only " +
                                         (fixed.is_bool ? fixed.value != 0 ? "true" : "false"
                                                        : std::to_string(fixed.value)) +
                                         " is supported");
    }
}

// The width of an FFN that follows from the model's.
void fill_ffn(const ConfigReader& reader, const Architecture& a, ModelConfig& c) {
    if (!reader.hf() || a.hf_ffn_ratio.empty() || c.ffn != 0) return;
    const std::int64_t ratio = reader.find_int({"", a.hf_ffn_ratio}, 1, 64).value_or(4);
    const std::int64_t exact = c.hidden * ratio * 2 / 3;
    c.ffn = (exact + 255) / 256 * 256;
}

// Of each layer, where a key lists them; a number stands for all layers.
void read_layer_sizes(const ConfigReader& reader, const Architecture& a, ModelConfig& c) {
    std::vector<LayerSizes> sizes;
    for_sizes(a, [&](const SizeKey& size) {
        if (size.of_layer == nullptr) return;
        const auto list = reader.find_ints(size.key, 1, size.most);
        if (!list) return;
        if (std::ssize(*list) != c.layers) {
            reader.fail(size.key, "lists " + std::to_string(list->size()) + " layers, expected " +
                                      std::to_string(c.layers));
        }
        if (sizes.empty()) sizes.resize(list->size());
        for (std::size_t l = 0; l < sizes.size(); ++l) sizes[l].*size.of_layer = (*list)[l];
        c.*size.field = *std::max_element(list->begin(), list->end());
    });
    for (LayerSizes& layer : sizes) {
        if (layer.ffn == 0) layer.ffn = c.ffn;
        if (layer.heads == 0) layer.heads = c.heads;
        if (layer.kv_heads == 0) layer.kv_heads = c.kv_heads != 0 ? c.kv_heads : layer.heads;
    }
    set_sizes(c, std::move(sizes));
}

void read_heads(const ConfigReader& reader, ModelConfig& c) {
    if (c.kv_heads == 0) c.kv_heads = c.heads;
    for (std::int64_t layer = 0; layer < c.layers; ++layer) {
        const LayerSizes sizes = c.sizes_of(layer);
        if (sizes.heads % sizes.kv_heads == 0) continue;
        reader.fail({"attention.head_count_kv", "num_key_value_heads"},
                    "is " + std::to_string(sizes.kv_heads) + ", expected a divisor of the " +
                        std::to_string(sizes.heads) + " heads");
    }
    const ConfigKey head_dim = {"attention.key_length", "head_dim"};
    if (c.head_dim == 0) {
        const bool differ = std::ranges::any_of(
            c.sizes, [&](const LayerSizes& layer) { return layer.heads != c.heads; });
        if (differ) reader.fail(head_dim, "is missing, and layers differ in their heads");
        if (c.hidden % c.heads != 0) {
            reader.fail(head_dim, "is missing, and the width is not a multiple of the heads");
        }
        c.head_dim = c.hidden / c.heads;
    }
    if (reader.find_int(kValueLength, 1, kMostHeadDim).value_or(c.head_dim) != c.head_dim) {
        reader.fail(kValueLength, "differs from attention.key_length: not supported");
    }
    if (c.rope_dims == 0) c.rope_dims = c.head_dim;
    if (c.rope_dims % 2 != 0 || c.rope_dims > c.head_dim) {
        reader.fail({"rope.dimension_count", "head_dim"},
                    "gives " + std::to_string(c.rope_dims) +
                        " rotated dims, expected an even number of at most " +
                        std::to_string(c.head_dim));
    }
}

std::int64_t embedding_rows(const ModelFile& file) {
    constexpr const char* kEmbedding = "token_embd.weight";
    if (const auto planes = stored_planes_shape(file, kEmbedding)) return planes->rows;
    const TensorEntry& embedding = file.get(kEmbedding);
    return embedding.dims.size() == 2 ? static_cast<std::int64_t>(embedding.dims[0]) : 0;
}

void read_sizes(const ConfigReader& reader, const ModelFile& file, const Architecture& a,
                ModelConfig& c) {
    for_sizes(a, [&](const SizeKey& size) {
        if (size.of_layer != nullptr && reader.find_ints(size.key, 1, size.most)) return;
        if (const auto value = reader.find_int(size.key, 1, size.most)) c.*size.field = *value;
    });
    if (c.layers > 0) read_layer_sizes(reader, a, c);
    fill_ffn(reader, a, c);
    for_sizes(a, [&](const SizeKey& size) {
        if (size.required && c.*size.field == 0) reader.fail(size.key, "is missing");
    });
    if (a.attention) read_heads(reader, c);
    if (c.vocab == 0) {
        c.vocab = embedding_rows(file);
        if (c.vocab < 1 || c.vocab > kMostVocab) {
            throw Error(Exit::kBadData, escaped(file.path(), 1024),
                        "tensor 'token_embd.weight' has no usable number of rows");
        }
    }
}

// The older keys hold scaling only; the newer ones hold everything, for all layers or per type.
const Json* hf_rope(const ConfigReader& reader, std::string_view layer_type) {
    const bool older = !reader.has(kRopeParameters);
    const ConfigKey& key = older ? kScalingType : kRopeParameters;
    const Json* rope = reader.json(key.hf);
    if (rope == nullptr || (older && layer_type != "full_attention")) return nullptr;
    const bool per_type = rope->find("full_attention") || rope->find("sliding_attention");
    if (per_type) rope = rope->find(layer_type);
    if (rope == nullptr || rope->is_null()) return nullptr;
    if (!rope->is_object()) reader.fail(key, "must be an object");
    return rope;
}

double hf_number(const ConfigReader& reader, const Json& rope, std::string_view key, double least,
                 double most) {
    const std::string where = reader.where({"", key});
    const Json* value = rope.find(key);
    const double number = value ? value->as_double(where) : std::nan("");
    if (!(number >= least && number <= most)) {
        reader.fail({"", key}, "is missing or out of range: expected " + Json(least).dump() +
                                   " to " + Json(most).dump());
    }
    return number;
}

void read_hf_scaling(const ConfigReader& reader, const Json& rope, ModelConfig& c) {
    const Json* kind = rope.find("rope_type");
    if (kind == nullptr) kind = rope.find("type");
    const std::string type = kind ? kind->as_string(reader.where({"", "rope_type"})) : "default";
    if (rope.find("partial_rotary_factor") &&
        hf_number(reader, rope, "partial_rotary_factor", 0, 1) != 1) {
        reader.fail({"", "partial_rotary_factor"}, "asks for something that is not supported");
    }
    if (type == "linear") {
        c.rope_factor = hf_number(reader, rope, "factor", 1 / kMostFactor, kMostFactor);
    } else if (type == "llama3") {
        ModelConfig::FrequencyBands bands;
        bands.factor = hf_number(reader, rope, "factor", 1 / kMostFactor, kMostFactor);
        bands.low = hf_number(reader, rope, "low_freq_factor", 1 / kMostFactor, kMostFactor);
        bands.high = hf_number(reader, rope, "high_freq_factor", bands.low, kMostFactor);
        bands.original_context_tokens =
            hf_number(reader, rope, "original_max_position_embeddings", 1, kMostContext);
        if (bands.high == bands.low) {
            reader.fail({"", "high_freq_factor"}, "equals low_freq_factor: no band between them");
        }
        c.rope_bands = bands;
    } else if (type != "default") {
        reader.fail({"", "rope_type"}, "is '" + escaped(type) + "', which is not supported");
    }
}

void read_rope(const ConfigReader& reader, const Architecture& a, ModelConfig& c) {
    if (!reader.hf()) {
        c.rope_base = reader.find_number(kBase, 1, kMostBase).value_or(10000);
        c.rope_base_local = reader.find_number(kBaseLocal, 1, kMostBase).value_or(10000);
        const std::string type = reader.find_string(kScalingType).value_or("linear");
        const double factor = reader.find_number(kScalingFactor, 0, kMostFactor).value_or(0);
        if (type != "none" && type != "linear") {
            reader.fail(kScalingType, "is '" + escaped(type) + "', which is not supported");
        }
        if (factor != 0 && factor < 1 / kMostFactor) reader.fail(kScalingFactor, "is too small");
        if (type == "linear" && factor != 0) c.rope_factor = factor;
        return;
    }
    c.rope_base = reader.find_number(kBase, 1, kMostBase).value_or(a.hf_defaults.rope_base);
    c.rope_base_local =
        reader.find_number(kBaseLocal, 1, kMostBase).value_or(a.hf_defaults.rope_base_local);
    if (const Json* rope = hf_rope(reader, "full_attention")) {
        if (rope->find("rope_theta")) {
            c.rope_base = hf_number(reader, *rope, "rope_theta", 1, kMostBase);
        }
        read_hf_scaling(reader, *rope, c);
    }
    if (const Json* rope = a.window_period > 0 ? hf_rope(reader, "sliding_attention") : nullptr) {
        ModelConfig local;
        read_hf_scaling(reader, *rope, local);
        if (local.rope_factor != 1 || local.rope_bands) {
            reader.fail(kRopeParameters, "scales sliding_attention, which is not supported");
        }
        if (rope->find("rope_theta")) {
            c.rope_base_local = hf_number(reader, *rope, "rope_theta", 1, kMostBase);
        }
    }
}

// One value per layer, if the config lists them.
std::vector<bool> listed_windows(const ConfigReader& reader) {
    std::vector<bool> windowed;
    if (const Json* types = reader.json(kLayerTypes.hf)) {
        const std::string where = reader.where(kLayerTypes);
        for (const Json& type : types->as_array(where)) {
            const std::string& text = type.as_string(where);
            if (text != "sliding_attention" && text != "full_attention") {
                reader.fail(kLayerTypes, "has '" + escaped(text) + "', which is not supported");
            }
            windowed.push_back(text == "sliding_attention");
        }
    } else if (const MetaValue* value = reader.meta(kPattern.gguf)) {
        if (const auto* array = std::get_if<std::shared_ptr<const MetaArray>>(value)) {
            std::visit(
                [&](const auto& v) {
                    if constexpr (std::is_integral_v<std::decay_t<decltype(v[0])>>) {
                        for (const auto x : v) windowed.push_back(x != 0);
                    } else {
                        reader.fail(kPattern, "must be an integer or an array of booleans");
                    }
                },
                (*array)->elements);
            if (windowed.empty()) reader.fail(kPattern, "is empty");
        }
    }
    return windowed;
}

void read_windows(const ConfigReader& reader, const Architecture& a, ModelConfig& c) {
    c.windowed.assign(static_cast<std::size_t>(c.layers), false);
    if (a.window_period == 0) return;
    c.window = reader.find_int(kWindow, 0, kMostContext).value_or(c.window);
    if (c.window == 0) return;
    c.windowed = listed_windows(reader);
    if (c.windowed.empty()) {
        const auto pattern = reader.find_int(kPattern, 1, kMostLayers);
        const auto other = reader.find_int(kPatternPrivate, 1, kMostLayers);
        c.windowed = periodic(c.layers, pattern ? *pattern : other.value_or(a.window_period));
    }
    if (c.windowed.size() != static_cast<std::size_t>(c.layers)) {
        reader.fail(reader.hf() ? kLayerTypes : kPattern,
                    "lists " + std::to_string(c.windowed.size()) + " layers, expected " +
                        std::to_string(c.layers));
    }
}

void read_scale(const ConfigReader& reader, const Architecture& a, ModelConfig& c) {
    if (reader.hf()) {
        const ConfigKey key = {"", a.hf_query_scalar};
        const auto scalar = reader.find_number(key, 1e-6, 1e12);
        c.attention_scale = 1 / std::sqrt(scalar.value_or(static_cast<double>(c.head_dim)));
    } else {
        const double stated = reader.find_number(kScale, 0, 1e6).value_or(0);
        c.attention_scale = stated != 0 ? stated : usual_scale(c, a);
    }
}

}  // namespace

void set_sizes(ModelConfig& config, std::vector<LayerSizes> sizes) {
    config.sizes.clear();
    if (sizes.empty()) return;
    const auto largest = [&](std::int64_t LayerSizes::*field) {
        return (*std::ranges::max_element(sizes, {}, field)).*field;
    };
    config.ffn = largest(&LayerSizes::ffn);
    config.heads = largest(&LayerSizes::heads);
    config.kv_heads = largest(&LayerSizes::kv_heads);
    const bool alike =
        std::ranges::all_of(sizes, [&](const LayerSizes& layer) { return layer == sizes.front(); });
    if (!alike) config.sizes = std::move(sizes);
}

std::vector<bool> periodic(std::int64_t layers, std::int64_t period) {
    std::vector<bool> windowed(static_cast<std::size_t>(layers));
    for (std::size_t i = 0; i < windowed.size(); ++i) {
        windowed[i] = (i + 1) % static_cast<std::size_t>(period) != 0;
    }
    return windowed;
}

double usual_scale(const ModelConfig& c, const Architecture& a) {
    const bool by_width = a.layers_scaled_by_width == c.layers && c.layers > 0;
    return 1 / std::sqrt(static_cast<double>(by_width ? c.hidden / c.heads : c.head_dim));
}

const Architecture& architecture_of(const ModelFile& file) {
    const bool hf = file.container() == Container::kHuggingFace;
    const std::string where = escaped(file.path(), 1024);
    std::string name;
    std::vector<std::string> known;
    if (hf) {
        const Json* type = file.config().find("model_type");
        if (type == nullptr) throw Error(Exit::kBadData, where, "config.json has no 'model_type'");
        name = type->as_string(where + ": key 'model_type'");
    } else {
        name = file.metadata().get_string("general.architecture");
    }
    for (const auto& a : architectures().items()) {
        known.emplace_back(hf ? a->hf_model_type : a->id);
        if (known.back() == name) return *a;
    }
    std::string list;
    for (const std::string& k : known) list += (list.empty() ? "supported: " : ", ") + k;
    const std::string near = did_you_mean(name, known);
    throw Error(Exit::kBadData, where, "architecture '" + escaped(name) + "' is not supported",
                near.empty() ? list : near);
}

ModelConfig read_config(const ModelFile& file, const Architecture& architecture) {
    const ConfigReader reader(file, architecture.id);
    ModelConfig c;
    if (reader.hf()) c = architecture.hf_defaults;
    refuse_unsupported(reader);
    refuse_other_values(reader, architecture);
    read_sizes(reader, file, architecture, c);
    const auto epsilon = reader.find_number(kEpsilon, 1e-30, 1);
    if (epsilon) c.norm_epsilon = *epsilon;
    if (c.norm_epsilon == 0) reader.fail(kEpsilon, "is missing");
    if (architecture.attention) {
        read_rope(reader, architecture, c);
        read_windows(reader, architecture, c);
        read_scale(reader, architecture, c);
    }
    if (reader.hf()) {
        c.tied = reader.find_bool({"", "tie_word_embeddings"}).value_or(c.tied);
        const ConfigKey key = {"", architecture.hf_activation};
        const auto activation = reader.find_string(key);
        if (activation && *activation != architecture.hf_activation_value) {
            reader.fail(key, "is '" + escaped(*activation) + "', expected '" +
                                 std::string(architecture.hf_activation_value) + "'");
        }
    } else {
        constexpr const char* kHead = "output.weight";
        c.tied = file.find(kHead) == nullptr && !stored_planes_shape(file, kHead);
    }
    return c;
}

}  // namespace thimble
