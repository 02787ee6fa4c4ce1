// SPDX-License-Identifier: Apache-2.0
// Gemma 3 (text): norms before and after each sublayer, normed queries and keys, GELU-gated FFN,
// embeddings times sqrt(hidden), a head tied to them, and local layers (sliding window, RoPE base
// of their own) between global ones. "Gemma 3 Technical Report" (2025).
#include <array>

#include "model/architecture.h"

namespace thimble {
namespace {

using enum Extent;
using enum Presence;
using enum HfTransform;

constexpr std::array kTensors = {
    TensorRule{"token_embd.weight", "model.embed_tokens.weight", kVocab, kHidden},
    TensorRule{"blk.#.attn_norm.weight", "model.layers.#.input_layernorm.weight", kOne, kHidden,
               kRequired, kPlusOne},
    TensorRule{"blk.#.attn_q.weight", "model.layers.#.self_attn.q_proj.weight", kQueries, kHidden},
    TensorRule{"blk.#.attn_q_norm.weight", "model.layers.#.self_attn.q_norm.weight", kOne, kHeadDim,
               kRequired, kPlusOne},
    TensorRule{"blk.#.attn_k.weight", "model.layers.#.self_attn.k_proj.weight", kKeys, kHidden},
    TensorRule{"blk.#.attn_k_norm.weight", "model.layers.#.self_attn.k_norm.weight", kOne, kHeadDim,
               kRequired, kPlusOne},
    TensorRule{"blk.#.attn_v.weight", "model.layers.#.self_attn.v_proj.weight", kKeys, kHidden},
    TensorRule{"blk.#.attn_output.weight", "model.layers.#.self_attn.o_proj.weight", kHidden,
               kQueries},
    TensorRule{"blk.#.post_attention_norm.weight", "model.layers.#.post_attention_layernorm.weight",
               kOne, kHidden, kRequired, kPlusOne},
    TensorRule{"blk.#.ffn_norm.weight", "model.layers.#.pre_feedforward_layernorm.weight", kOne,
               kHidden, kRequired, kPlusOne},
    TensorRule{"blk.#.ffn_gate.weight", "model.layers.#.mlp.gate_proj.weight", kFfn, kHidden},
    TensorRule{"blk.#.ffn_up.weight", "model.layers.#.mlp.up_proj.weight", kFfn, kHidden},
    TensorRule{"blk.#.ffn_down.weight", "model.layers.#.mlp.down_proj.weight", kHidden, kFfn},
    TensorRule{"blk.#.post_ffw_norm.weight", "model.layers.#.post_feedforward_layernorm.weight",
               kOne, kHidden, kRequired, kPlusOne},
    TensorRule{"output_norm.weight", "model.norm.weight", kOne, kHidden, kRequired, kPlusOne},
    TensorRule{"output.weight", "lm_head.weight", kVocab, kHidden, kUntied},
};

constexpr std::array<std::string_view, 2> kSublayers = {"attention", "ffn"};

}  // namespace

Architecture gemma3_architecture() {
    Architecture a;
    a.id = "gemma3";
    a.hf_class = "Gemma3ForCausalLM";
    a.hf_model_type = "gemma3_text";
    a.hf_activation = "hidden_activation";
    a.hf_activation_value = "gelu_pytorch_tanh";
    a.gate = ops::Gate::kGeluTanh;
    a.rope_style = ops::RopeStyle::kHalves;
    a.qk_norm = a.post_norms = a.scaled_embedding = true;
    a.window_period = 6;
    a.layers_scaled_by_width = 62;
    a.hf_query_scalar = "query_pre_attn_scalar";
    a.hf_defaults.head_dim = 256;
    a.hf_defaults.context_tokens = 131072;
    a.hf_defaults.norm_epsilon = 1e-6;
    a.hf_defaults.rope_base = 1e6;
    a.hf_defaults.rope_base_local = 1e4;
    a.hf_defaults.window = 4096;
    a.hf_defaults.tied = true;
    a.tensors = kTensors;
    a.sublayers = kSublayers;
    return a;
}

}  // namespace thimble
