// SPDX-License-Identifier: Apache-2.0
// MatMul-free language models: ternary weights and codes of 8 bits in every product, a gated linear
// recurrence in place of attention, gate and up of the FFN in one matrix, each matrix with a norm
// of its own. "Scalable MatMul-free Language Modeling" (2024). llama.cpp knows no such
// architecture: names in GGUF are ours.
#include <array>

#include "model/architecture.h"

namespace thimble {
namespace {

using enum Extent;
using enum Presence;
using enum HfTransform;

constexpr std::array kTensors = {
    TensorRule{"token_embd.weight", "model.embeddings.weight", kVocab, kHidden},
    TensorRule{"lower_bounds.weight", "model.lower_bounds", kLayers, kHidden},
    TensorRule{"blk.#.attn_norm.weight", "model.layers.#.attn_norm.weight", kOne, kHidden},
    TensorRule{"blk.#.attn_i_input_norm.weight", "model.layers.#.attn.i_proj.norm.weight", kOne,
               kHidden},
    TensorRule{"blk.#.attn_i.weight", "model.layers.#.attn.i_proj.weight", kHidden, kHidden,
               kRequired, kTernary},
    TensorRule{"blk.#.attn_f_input_norm.weight", "model.layers.#.attn.f_proj.norm.weight", kOne,
               kHidden},
    TensorRule{"blk.#.attn_f.weight", "model.layers.#.attn.f_proj.weight", kHidden, kHidden,
               kRequired, kTernary},
    TensorRule{"blk.#.attn_g_input_norm.weight", "model.layers.#.attn.g_proj.norm.weight", kOne,
               kHidden},
    TensorRule{"blk.#.attn_g.weight", "model.layers.#.attn.g_proj.weight", kHidden, kHidden,
               kRequired, kTernary},
    TensorRule{"blk.#.attn_g_norm.weight", "model.layers.#.attn.g_norm.weight", kOne, kHidden},
    TensorRule{"blk.#.attn_output_input_norm.weight", "model.layers.#.attn.o_proj.norm.weight",
               kOne, kHidden},
    TensorRule{"blk.#.attn_output.weight", "model.layers.#.attn.o_proj.weight", kHidden, kHidden,
               kRequired, kTernary},
    TensorRule{"blk.#.ffn_norm.weight", "model.layers.#.mlp_norm.weight", kOne, kHidden},
    TensorRule{"blk.#.ffn_gate_up_input_norm.weight", "model.layers.#.mlp.gate_proj.norm.weight",
               kOne, kHidden},
    TensorRule{"blk.#.ffn_gate_up.weight", "model.layers.#.mlp.gate_proj.weight", kTwoFfn, kHidden,
               kRequired, kTernary},
    TensorRule{"blk.#.ffn_down_input_norm.weight", "model.layers.#.mlp.down_proj.norm.weight", kOne,
               kFfn},
    TensorRule{"blk.#.ffn_down.weight", "model.layers.#.mlp.down_proj.weight", kHidden, kFfn,
               kRequired, kTernary},
    TensorRule{"output_norm.weight", "model.norm.weight", kOne, kHidden},
    TensorRule{"output_input_norm.weight", "lm_head.norm.weight", kOne, kHidden},
    TensorRule{"output.weight", "lm_head.weight", kVocab, kHidden, kRequired, kTernary},
};

constexpr std::array kFixed = {HfFixed{"expand_ratio", 1}, HfFixed{"use_short_conv", 0, true},
                               HfFixed{"use_lower_bound", 1, true},
                               HfFixed{"tie_word_embeddings", 0, true}};
constexpr std::array<std::string_view, 2> kSublayers = {"mlgru", "fused_ffn"};

}  // namespace

Architecture hgrn_bit_architecture() {
    Architecture a;
    a.id = "hgrn_bit";
    a.hf_class = "HGRNBitForCausalLM";
    a.hf_model_type = "hgrn_bit";
    a.hf_activation = "hidden_act";
    a.hf_activation_value = "swish";
    a.attention = false;
    a.recurrence = true;
    // The modules declare 1e-8; the fused kernel that released models were trained with has this.
    a.input_norm_epsilon = 1e-6;
    a.hf_ffn_ratio = "hidden_ratio";
    a.hf_fixed = kFixed;
    a.hf_defaults.context_tokens = 2048;
    a.hf_defaults.norm_epsilon = 1e-6;
    a.tensors = kTensors;
    a.sublayers = kSublayers;
    return a;
}

}  // namespace thimble
