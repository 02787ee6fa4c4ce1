#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the tiny random models of tests/golden/models and what transformers computes with them.

Each <name>/ is a Hugging Face directory; <name>.golden.safetensors holds, per prompt i, `prompt.i` (I32),
`logits.i` (F32, [tokens, vocab], eager attention, weights widened to F32) and `greedy.i` (I32), and the versions
that made them. Two configs are rewritten into the older key style, which most published models still use.
Needs torch, transformers and safetensors; run from anywhere, output is a pure function of the versions.
"""
import json
import math
import pathlib
import shutil

import safetensors
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "models"
GREEDY_TOKENS = 16
LEAST_MARGIN = 0.01  # between the two largest logits at each greedy step, far above F32 rounding


def common(**more):
    return dict(bos_token_id=1, eos_token_id=2, pad_token_id=0, attn_implementation="eager", **more)


MODELS = {
    # GQA, tied head, the plain case.
    "llama-tied": dict(
        dtype=torch.bfloat16,
        prompts=[3, 24],
        config=LlamaConfig(
            hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            vocab_size=96, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=True, **common()),
    ),
    # Untied head, biases everywhere, linear RoPE scaling, odd sizes, two shards, older config keys.
    "llama-untied": dict(
        dtype=torch.float32,
        prompts=[5, 19],
        shard="60KB",
        old_style=True,
        config=LlamaConfig(
            hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
            vocab_size=101, max_position_embeddings=128, rms_norm_eps=1e-6, tie_word_embeddings=False,
            attention_bias=True, mlp_bias=True,
            rope_parameters=dict(rope_type="linear", rope_theta=5000.0, factor=2.0), **common()),
    ),
    # Llama 3 frequency scaling (all three bands hit), head_dim that is not hidden / heads, MQA.
    "llama3-rope": dict(
        dtype=torch.bfloat16,
        prompts=[2, 40],
        config=LlamaConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1,
            head_dim=24, vocab_size=128, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False,
            rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
                                 high_freq_factor=4.0, original_max_position_embeddings=64), **common()),
    ),
    # Five sliding layers, one full, one sliding; prompts far longer than the window.
    "gemma3": dict(
        dtype=torch.bfloat16,
        prompts=[4, 31],
        config=Gemma3TextConfig(
            hidden_size=48, intermediate_size=48, num_hidden_layers=7, num_attention_heads=2, num_key_value_heads=1,
            head_dim=16, vocab_size=128, max_position_embeddings=128, sliding_window=6, query_pre_attn_scalar=16,
            rms_norm_eps=1e-6, **common()),
    ),
    # Other layer pattern, scaled global RoPE, attention scale that is not head_dim^-0.5, older config keys.
    "gemma3-scaled": dict(
        dtype=torch.float32,
        prompts=[6, 26],
        old_style=True,
        config=Gemma3TextConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, vocab_size=112, max_position_embeddings=512, sliding_window=5, query_pre_attn_scalar=24,
            rms_norm_eps=1e-6, sliding_window_pattern=2,
            rope_parameters=dict(full_attention=dict(rope_type="linear", factor=4.0, rope_theta=500000.0),
                                 sliding_attention=dict(rope_type="default", rope_theta=9000.0)), **common()),
    ),
}


def randomise(model, seed):
    """Weights that keep activations near unit size and logits well spread."""
    generator = torch.Generator().manual_seed(seed)
    gemma = "Gemma" in type(model).__name__
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in name:
                p.copy_(0.2 * noise + (0.0 if gemma else 1.0))
            elif p.ndim == 1:
                p.copy_(0.3 * noise)
            elif "embed_tokens" in name:
                # Gemma multiplies by sqrt(hidden) itself; larger rows would drown what the layers add.
                p.copy_(noise * ((0.5 if gemma else 3.0) / math.sqrt(p.shape[1])))
            else:
                p.copy_(noise * (1.5 / math.sqrt(p.shape[1])))


def old_style(config):
    """The same configuration in the keys that were usual before `rope_parameters`."""
    rope = config.pop("rope_parameters")
    if "full_attention" in rope:
        config["rope_theta"] = rope["full_attention"]["rope_theta"]
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        scaling = dict(rope["full_attention"])
        kinds = config.pop("layer_types")
        config["sliding_window_pattern"] = kinds.index("full_attention") + 1
        config.pop("_sliding_window_pattern", None)
    else:
        config["rope_theta"] = rope["rope_theta"]
        scaling = dict(rope)
    scaling.pop("rope_theta")
    config["rope_scaling"] = scaling
    config["torch_dtype"] = config.pop("dtype")
    return config


def greedy(model, prompt):
    ids, margin = list(prompt), math.inf
    for _ in range(GREEDY_TOKENS):
        logits = model(torch.tensor([ids])).logits[0, -1]
        top = torch.topk(logits, 2)
        margin = min(margin, float(top.values[0] - top.values[1]))
        ids.append(int(top.indices[0]))
    return ids[len(prompt):], margin


def make(name, spec, seed):
    directory = OUT / name
    shutil.rmtree(directory, ignore_errors=True)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(spec["config"], dtype=torch.float32)
    randomise(model, seed)
    model.to(spec["dtype"]).save_pretrained(directory, max_shard_size=spec.get("shard", "1GB"))
    (directory / "generation_config.json").unlink(missing_ok=True)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    if spec.get("old_style"):
        config = old_style(config)
    path.write_text(json.dumps(config, indent=2) + "\n")

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed + 1)
    vocab = spec["config"].vocab_size
    tensors, least = {}, math.inf
    for i, length in enumerate(spec["prompts"]):
        prompt = torch.randint(3, vocab, (length,), generator=generator).tolist()
        with torch.no_grad():
            tensors[f"logits.{i}"] = model(torch.tensor([prompt])).logits[0].float().contiguous()
            continuation, margin = greedy(model, prompt)
        tensors[f"prompt.{i}"] = torch.tensor(prompt, dtype=torch.int32)
        tensors[f"greedy.{i}"] = torch.tensor(continuation, dtype=torch.int32)
        least = min(least, margin)
    return tensors, least


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for number, (name, spec) in enumerate(MODELS.items()):
        seed = 1000 * (number + 1)
        while True:
            tensors, margin = make(name, spec, seed)
            if margin >= LEAST_MARGIN:
                break
            seed += 1
        made_with = (f"torch {torch.__version__}, transformers {transformers.__version__}, "
                     f"safetensors {safetensors.__version__}, seed {seed}")
        save_file(tensors, OUT / f"{name}.golden.safetensors", metadata={"made_with": made_with})
        size = sum(f.stat().st_size for f in (OUT / name).iterdir())
        spread = max(float(t.std()) for k, t in tensors.items() if k.startswith("logits"))
        print(f"{name}: seed {seed}, least margin {margin:.3f}, logit spread {spread:.2f}, {size} bytes")


if __name__ == "__main__":
    main()
