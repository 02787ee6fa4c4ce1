// SPDX-License-Identifier: Apache-2.0
// ModelConfig -> the keys of either container.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "model/config.h"
#include "model/config_keys.h"

namespace thimble {
namespace {

// GGUF keeps 32-bit floats: the shortest decimal that means the same one, whole numbers as such.
Json number(double value) {
    if (std::floor(value) == value && std::abs(value) < 1e15)
        return static_cast<std::int64_t>(value);
    std::array<char, 32> text{};
    const auto end =
        std::to_chars(text.data(), text.data() + text.size(), static_cast<float>(value));
    double shortest = value;
    std::from_chars(text.data(), end.ptr, shortest);
    return shortest;
}

Json rope_scaling(const ModelConfig& c) {
    Json out = Json::object();
    if (c.rope_bands) {
        out.set("rope_type", "llama3");
        out.set("factor", number(c.rope_bands->factor));
        out.set("low_freq_factor", c.rope_bands->low);
        out.set("high_freq_factor", c.rope_bands->high);
        out.set("original_max_position_embeddings", number(c.rope_bands->original_context_tokens));
    } else if (c.rope_factor != 1) {
        out.set("rope_type", "linear");
        out.set("factor", number(c.rope_factor));
    } else {
        return {};
    }
    return out;
}

Json layer_types(const ModelConfig& c) {
    Json types = Json::array();
    for (const bool windowed : c.windowed)
        types.push(windowed ? "sliding_attention" : "full_attention");
    return types;
}

bool equal(double a, double b) { return std::abs(a / b - 1) <= 1e-6; }

void write_hf_attention(const ModelConfig& c, const Architecture& a, Json& out) {
    const auto set = [&](const ConfigKey& key, Json value) {
        out.set(std::string(key.hf), std::move(value));
    };
    set(kBase, number(c.rope_base));
    set(kScalingType, rope_scaling(c));
    if (c.rope_dims != c.head_dim) {
        throw Error(Exit::kBadData, "config.json",
                    "cannot say that only " + std::to_string(c.rope_dims) + " of " +
                        std::to_string(c.head_dim) + " dims of a head are rotated");
    }
    if (!a.hf_query_scalar.empty()) {
        const double scalar = 1 / (c.attention_scale * c.attention_scale);
        const double whole = std::round(scalar);
        out.set(std::string(a.hf_query_scalar), number(equal(scalar, whole) ? whole : scalar));
    } else if (!equal(c.attention_scale, 1 / std::sqrt(static_cast<double>(c.head_dim)))) {
        throw Error(Exit::kBadData, "config.json",
                    "cannot say that attention is scaled by " + Json(c.attention_scale).dump());
    }
    if (a.window_period > 0) {
        set(kWindow, c.window > 0 ? c.window : a.hf_defaults.window);
        set(kBaseLocal, number(c.rope_base_local));
        set(kLayerTypes, layer_types(c));
    }
}

}  // namespace

void write_config(const ModelConfig& c, const Architecture& a, Metadata& metadata) {
    const std::string prefix = std::string(a.id) + ".";
    const auto set = [&](const ConfigKey& key, MetaValue value) {
        metadata.set(prefix + std::string(key.gguf), std::move(value));
    };
    const auto set_number = [&](const ConfigKey& key, double value) {
        set(key, static_cast<float>(value));
    };
    for_sizes(a, [&](const SizeKey& size) {
        std::vector<std::int32_t> list;
        if (size.of_layer != nullptr) {
            for (const LayerSizes& layer : c.sizes)
                list.push_back(static_cast<std::int32_t>(layer.*size.of_layer));
        }
        const bool alike = std::ranges::all_of(list, [&](auto x) { return x == list.front(); });
        if (alike) return set(size.key, static_cast<std::uint32_t>(c.*size.field));
        set(size.key, std::make_shared<const MetaArray>(MetaArray{std::move(list)}));
    });
    if (a.attention) set(kValueLength, static_cast<std::uint32_t>(c.head_dim));
    set_number(kEpsilon, c.norm_epsilon);
    if (!a.attention) return;
    set_number(kBase, c.rope_base);
    if (c.rope_factor != 1) {
        set(kScalingType, std::string("linear"));
        set_number(kScalingFactor, c.rope_factor);
    }
    if (std::abs(c.attention_scale / usual_scale(c, a) - 1) > 1e-6) {
        set_number(kScale, c.attention_scale);
    }
    if (c.window == 0 || c.windowed == std::vector<bool>(c.windowed.size(), false)) return;
    set(kWindow, static_cast<std::uint32_t>(c.window));
    set_number(kBaseLocal, c.rope_base_local);
    if (c.windowed == periodic(c.layers, a.window_period)) return;
    for (std::int64_t period = 1; period <= c.layers; ++period) {
        if (c.windowed != periodic(c.layers, period)) continue;
        set(kPattern, static_cast<std::uint32_t>(period));
        return;
    }
    const std::vector<std::uint8_t> list(c.windowed.begin(), c.windowed.end());
    set(kPattern, std::make_shared<const MetaArray>(MetaArray{list, true}));
}

Json write_hf_config(const ModelConfig& c, const Architecture& a) {
    if (!c.sizes.empty()) {
        throw Error(Exit::kBadData, "config.json",
                    "has one number of heads and one width for all layers, and here they differ",
                    "write a GGUF file");
    }
    Json out = Json::object();
    out.set("architectures", JsonArray{Json(a.hf_class)});
    out.set("model_type", a.hf_model_type);
    out.set(std::string(a.hf_activation), a.hf_activation_value);
    for_sizes(a, [&](const SizeKey& size) {
        if (!size.key.hf.empty()) out.set(std::string(size.key.hf), c.*size.field);
    });
    out.set(std::string(kEpsilon.hf), number(c.norm_epsilon));
    for (const HfFixed& fixed : a.hf_fixed) {
        const std::string key(fixed.key);
        fixed.is_bool ? out.set(key, fixed.value != 0) : out.set(key, fixed.value);
    }
    if (a.attention) write_hf_attention(c, a, out);
    out.set("tie_word_embeddings", c.tied);
    return out;
}

std::vector<float> frequency_divisors(const ModelConfig& c) {
    std::vector<float> divisors;
    if (!c.rope_bands) return divisors;
    const auto& bands = *c.rope_bands;
    for (std::int64_t i = 0; i < c.rope_dims; i += 2) {
        const double exponent = static_cast<double>(i) / static_cast<double>(c.rope_dims);
        const double wavelength = 2 * std::numbers::pi * std::pow(c.rope_base, exponent);
        const double turns = bands.original_context_tokens / wavelength;
        double divisor = 1;
        if (turns < bands.low) {
            divisor = bands.factor;
        } else if (turns <= bands.high) {
            const double smooth = (turns - bands.low) / (bands.high - bands.low);
            divisor = 1 / ((1 - smooth) / bands.factor + smooth);
        }
        divisors.push_back(static_cast<float>(divisor));
    }
    return divisors;
}

std::optional<ModelConfig::FrequencyBands> find_frequency_bands(const ModelConfig& config,
                                                                std::span<const float> divisors) {
    ModelConfig guess = config;
    for (double context = 32; context <= kMostContext; context *= 2) {
        const double factor = *std::max_element(divisors.begin(), divisors.end());
        guess.rope_bands = ModelConfig::FrequencyBands{factor, 1, 4, context};
        const std::vector<float> made = frequency_divisors(guess);
        if (std::equal(made.begin(), made.end(), divisors.begin(), divisors.end(),
                       [](float x, float y) { return equal(x, y); })) {
            return guess.rope_bands;
        }
    }
    return std::nullopt;
}

}  // namespace thimble
