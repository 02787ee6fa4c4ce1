// SPDX-License-Identifier: Apache-2.0
// Llama: pre-norm, rotary grouped-query attention, SiLU-gated FFN, optional biases, optional head.
// "LLaMA: Open and Efficient Foundation Language Models" (2023); scaled frequencies: Llama 3.1
// (2024).
#include <array>

#include "model/architecture.h"

namespace thimble {
namespace {

using enum Extent;
using enum Presence;
using enum HfTransform;

constexpr std::array kTensors = {
    TensorRule{"token_embd.weight", "model.embed_tokens.weight", kVocab, kHidden},
    TensorRule{"rope_freqs.weight", "", kOne, kRopePairs, kOptional},
    TensorRule{"blk.#.attn_norm.weight", "model.layers.#.input_layernorm.weight", kOne, kHidden},
    TensorRule{"blk.#.attn_q.weight", "model.layers.#.self_attn.q_proj.weight", kQueries, kHidden,
               kRequired, kPairQueries},
    TensorRule{"blk.#.attn_q.bias", "model.layers.#.self_attn.q_proj.bias", kOne, kQueries,
               kOptional, kPairQueries},
    TensorRule{"blk.#.attn_k.weight", "model.layers.#.self_attn.k_proj.weight", kKeys, kHidden,
               kRequired, kPairKeys},
    TensorRule{"blk.#.attn_k.bias", "model.layers.#.self_attn.k_proj.bias", kOne, kKeys, kOptional,
               kPairKeys},
    TensorRule{"blk.#.attn_v.weight", "model.layers.#.self_attn.v_proj.weight", kKeys, kHidden},
    TensorRule{"blk.#.attn_v.bias", "model.layers.#.self_attn.v_proj.bias", kOne, kKeys, kOptional},
    TensorRule{"blk.#.attn_output.weight", "model.layers.#.self_attn.o_proj.weight", kHidden,
               kQueries},
    TensorRule{"blk.#.attn_output.bias", "model.layers.#.self_attn.o_proj.bias", kOne, kHidden,
               kOptional},
    TensorRule{"blk.#.ffn_norm.weight", "model.layers.#.post_attention_layernorm.weight", kOne,
               kHidden},
    TensorRule{"blk.#.ffn_gate.weight", "model.layers.#.mlp.gate_proj.weight", kFfn, kHidden},
    TensorRule{"blk.#.ffn_gate.bias", "model.layers.#.mlp.gate_proj.bias", kOne, kFfn, kOptional},
    TensorRule{"blk.#.ffn_up.weight", "model.layers.#.mlp.up_proj.weight", kFfn, kHidden},
    TensorRule{"blk.#.ffn_up.bias", "model.layers.#.mlp.up_proj.bias", kOne, kFfn, kOptional},
    TensorRule{"blk.#.ffn_down.weight", "model.layers.#.mlp.down_proj.weight", kHidden, kFfn},
    TensorRule{"blk.#.ffn_down.bias", "model.layers.#.mlp.down_proj.bias", kOne, kHidden,
               kOptional},
    TensorRule{"output_norm.weight", "model.norm.weight", kOne, kHidden},
    TensorRule{"output.weight", "lm_head.weight", kVocab, kHidden, kUntied},
};

constexpr std::array kBiases = {HfBiases{"attention_bias", "blk.#.attn_"},
                                HfBiases{"mlp_bias", "blk.#.ffn_"}};
constexpr std::array<std::string_view, 2> kSublayers = {"attention", "ffn"};

}  // namespace

Architecture llama_architecture() {
    Architecture a;
    a.id = "llama";
    a.hf_class = "LlamaForCausalLM";
    a.hf_model_type = "llama";
    a.hf_activation = "hidden_act";
    a.hf_activation_value = "silu";
    a.hf_defaults.context_tokens = 2048;
    a.hf_defaults.norm_epsilon = 1e-6;
    a.hf_defaults.rope_base = 10000;
    a.hf_biases = kBiases;
    a.tensors = kTensors;
    a.sublayers = kSublayers;
    return a;
}

}  // namespace thimble
