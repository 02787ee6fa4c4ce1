// SPDX-License-Identifier: Apache-2.0
// The names of a config's numbers in both containers, with their bounds: one table for reading and
// for writing.
#pragma once

#include <vector>

#include "model/architecture.h"
#include "model/config_reader.h"

namespace thimble {

// Bounds keep every product of two sizes, and of three with an element size, inside 64 bits.
inline constexpr std::int64_t kMostLayers = 4096, kMostHeads = 4096, kMostHeadDim = 4096;
inline constexpr std::int64_t kMostWidth = 1 << 20, kMostVocab = 1 << 26, kMostContext = 1 << 30;
inline constexpr double kMostBase = 1e12, kMostFactor = 1e6;

struct SizeKey {
    std::int64_t ModelConfig::*field;
    ConfigKey key;
    std::int64_t most;
    bool required = true;                          // unless the architecture has a default
    bool of_attention = false;                     // unknown to architectures without
    std::int64_t LayerSizes::*of_layer = nullptr;  // in GGUF it may be an array, one for each layer
};
inline constexpr SizeKey kSizes[] = {
    {&ModelConfig::layers, {"block_count", "num_hidden_layers"}, kMostLayers},
    {&ModelConfig::context_tokens, {"context_length", "max_position_embeddings"}, kMostContext},
    {&ModelConfig::hidden, {"embedding_length", "hidden_size"}, kMostWidth},
    {&ModelConfig::ffn,
     {"feed_forward_length", "intermediate_size"},
     kMostWidth,
     true,
     false,
     &LayerSizes::ffn},
    {&ModelConfig::heads,
     {"attention.head_count", "num_attention_heads"},
     kMostHeads,
     true,
     true,
     &LayerSizes::heads},
    {&ModelConfig::kv_heads,
     {"attention.head_count_kv", "num_key_value_heads"},
     kMostHeads,
     false,
     true,
     &LayerSizes::kv_heads},
    {&ModelConfig::head_dim, {"attention.key_length", "head_dim"}, kMostHeadDim, false, true},
    {&ModelConfig::rope_dims, {"rope.dimension_count", ""}, kMostHeadDim, false, true},
    {&ModelConfig::vocab, {"vocab_size", "vocab_size"}, kMostVocab, false},
};
inline constexpr ConfigKey kValueLength = {"attention.value_length", ""};
inline constexpr ConfigKey kEpsilon = {"attention.layer_norm_rms_epsilon", "rms_norm_eps"};
inline constexpr ConfigKey kScale = {"attention.scale", ""};
inline constexpr ConfigKey kWindow = {"attention.sliding_window", "sliding_window"};
inline constexpr ConfigKey kPattern = {"attention.sliding_window_pattern",
                                       "sliding_window_pattern"};
inline constexpr ConfigKey kPatternPrivate = {"", "_sliding_window_pattern"};
inline constexpr ConfigKey kLayerTypes = {"", "layer_types"};
inline constexpr ConfigKey kBase = {"rope.freq_base", "rope_theta"};
inline constexpr ConfigKey kBaseLocal = {"rope.freq_base_swa", "rope_local_base_freq"};
inline constexpr ConfigKey kScalingType = {"rope.scaling.type", "rope_scaling"};
inline constexpr ConfigKey kScalingFactor = {"rope.scaling.factor", ""};
inline constexpr ConfigKey kRopeParameters = {"", "rope_parameters"};

// The sizes that an architecture knows.
template <class Fn>
void for_sizes(const Architecture& architecture, Fn&& fn) {
    for (const SizeKey& size : kSizes) {
        if (architecture.attention || !size.of_attention) fn(size);
    }
}
// Attention's scale where a config does not state it.
[[nodiscard]] double usual_scale(const ModelConfig& config, const Architecture& architecture);
// Windows in all layers but every `period`th.
[[nodiscard]] std::vector<bool> periodic(std::int64_t layers, std::int64_t period);

}  // namespace thimble
