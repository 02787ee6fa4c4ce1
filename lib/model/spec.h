// SPDX-License-Identifier: Apache-2.0
// What a model is, in one canonical convention (GGUF's tensor names, row order and norm offsets),
// whatever container it came from.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kv/engine.h"

namespace thimble {

struct ModelSpec {
    std::string architecture;  // "llama", "gemma3"
    std::string name;
    std::int64_t layers = 0, hidden = 0, vocab = 0;
    std::int64_t ffn = 0, all_ffn = 0;  // the largest width of a layer, and the sum of all
    std::int64_t context_tokens = 0;
    double norm_epsilon = 1e-5;
    double embedding_scale = 1.0;
    ops::Gate gate = ops::Gate::kSilu;
    bool qk_norm = false;     // RMS norm of each head's q and k before RoPE
    bool post_norms = false;  // RMS norm after attention and after the FFN, before the residual add
    bool tied_embedding = false;
    double input_norm_epsilon = 0;          // of matrices with coded input (linear.h); 0: none
    std::vector<std::string> sublayers;     // of every layer, by name in blocks.def
    std::vector<AttentionSpec> attention;   // per layer; empty: of an architecture without
    std::vector<RecurrentLayer> recurrent;  // likewise
    // Least part of a recurrent state that stays, by layer and channel: [layers, hidden].
    std::vector<double> lower_bounds;
    std::shared_ptr<const std::vector<float>> rope_factors;  // what attention[i].rope.factors views

    [[nodiscard]] ModelInfo info() const;
    [[nodiscard]] StateLayers state_layers() const { return {attention, recurrent}; }
};

}  // namespace thimble
