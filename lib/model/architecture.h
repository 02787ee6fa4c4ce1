// SPDX-License-Identifier: Apache-2.0
// An architecture is data: how tensors and numbers are called in each container, and what turns a
// Hugging Face tensor into the canonical (GGUF) one. One leaf file in architectures/ plus one line
// in architectures.def makes a new one.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "core/registry.h"
#include "ops/ops.h"

namespace thimble {

// Numbers of a config that size tensors.
enum class Extent : std::uint8_t {
    kOne,
    kVocab,
    kHidden,
    kFfn,
    kTwoFfn,   // gate and up in one matrix
    kLayers,   // rows of a table of vectors: not a matrix, not quantised
    kQueries,  // heads * head_dim
    kKeys,     // kv_heads * head_dim
    kHeadDim,
    kRopePairs,  // rotated dims / 2
};

enum class Presence : std::uint8_t {
    kRequired,
    kOptional,
    kUntied,  // present exactly when the head has weights of its own
};

// What makes the canonical tensor of a Hugging Face one.
enum class HfTransform : std::uint8_t {
    kNone,
    kPairQueries,  // rows of each head: halves -> interleaved pairs, as the rotation wants them
    kPairKeys,
    kPlusOne,  // stored as the difference from one
    kTernary,  // stored as the floats that a training run went on changing: -1, 0 or 1 times one
               // scale is meant (ternary_tensor.h)
};

struct TensorRule {
    std::string_view gguf;                            // '#' stands for the layer's number
    std::string_view hf;                              // empty: made from the config
    Extent rows = Extent::kOne, cols = Extent::kOne;  // rows == kOne: a vector
    Presence presence = Presence::kRequired;
    HfTransform transform = HfTransform::kNone;
};

// The numbers in which the layers of a pruned model may differ.
struct LayerSizes {
    std::int64_t ffn = 0, heads = 0, kv_heads = 0;
    [[nodiscard]] bool operator==(const LayerSizes&) const = default;
};

// What the keys of a config say, in one form, checked for range but not yet against tensors.
struct ModelConfig {
    std::int64_t layers = 0, hidden = 0, ffn = 0, vocab = 0, heads = 0, kv_heads = 0, head_dim = 0;
    std::int64_t rope_dims = 0, context_tokens = 0, window = 0;
    double norm_epsilon = 0, attention_scale = 0, final_softcap = 0;
    double rope_base = 0, rope_base_local = 0;  // local: layers with a sliding window
    double rope_factor = 1;                     // linear scaling, layers without a window
    struct FrequencyBands {                     // Llama 3's scaling by wavelength
        double factor = 0, low = 0, high = 0, original_context_tokens = 0;
    };
    std::optional<FrequencyBands> rope_bands;
    std::vector<bool> windowed;  // [layers]
    // [layers]; empty: all layers are alike. Else ffn, heads and kv_heads are the largest of these.
    std::vector<LayerSizes> sizes;
    bool tied = false;

    [[nodiscard]] LayerSizes sizes_of(std::int64_t layer) const {
        return sizes.empty() ? LayerSizes{ffn, heads, kv_heads}
                             : sizes[static_cast<std::size_t>(layer)];
    }
};

// A key of config.json with the one value that blocks here know; absent, it has that value.
struct HfFixed {
    std::string_view key;
    std::int64_t value = 0;  // 0 and 1: also false and true
    bool is_bool = false;
};

// A key of config.json that says whether all tensors "<gguf>*.bias" are there.
struct HfBiases {
    std::string_view key, gguf;
};

struct Architecture {
    std::string_view id;                   // general.architecture
    std::string_view hf_class;             // architectures[0]
    std::string_view hf_model_type;        // model_type
    std::string_view hf_activation;        // key of the gate's activation ...
    std::string_view hf_activation_value;  // ... and the only value it may have
    ops::Gate gate = ops::Gate::kSilu;
    ops::RopeStyle rope_style = ops::RopeStyle::kInterleaved;
    // Without attention, none of the numbers of heads, rotation and windows means anything.
    bool attention = true;
    bool recurrence = false;  // of as many channels as the width, in every layer
    // Of the norm of a matrix with coded input (linear.h), "<matrix>_input_norm.weight"; 0: no
    // matrix has such.
    double input_norm_epsilon = 0;
    bool qk_norm = false, post_norms = false;
    bool scaled_embedding = false;   // times sqrt(hidden)
    std::int64_t window_period = 0;  // every so many layers one has no window; 0: no windows
    // GGUF files of this layer count scale attention by (hidden / heads)^-0.5 without saying so.
    std::int64_t layers_scaled_by_width = 0;
    std::string_view hf_query_scalar;  // key whose value^-0.5 scales attention; empty: none
    // Key of the number r that makes the FFN's width where a config.json does not say it: 2/3 r of
    // the model's width, up to the next multiple of 256; empty: it must.
    std::string_view hf_ffn_ratio;
    std::span<const HfFixed> hf_fixed;
    ModelConfig hf_defaults;  // for keys that a config.json leaves out
    std::span<const HfBiases> hf_biases;
    std::span<const TensorRule> tensors;
    std::span<const std::string_view> sublayers;  // of every layer, by name in blocks.def

    [[nodiscard]] std::string_view name() const noexcept { return id; }
};

[[nodiscard]] const Registry<Architecture>& architectures();

}  // namespace thimble
