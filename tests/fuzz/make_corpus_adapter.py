#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of tests/fuzz/corpus/adapter: adapters of the model that tests/fuzz/adapter.cpp makes.

Needs numpy, gguf and safetensors.
"""
import json
import pathlib

import gguf
import numpy as np
from safetensors.numpy import save

OUT = pathlib.Path(__file__).resolve().parent / "corpus" / "adapter"
PREFIX = "base_model.model.model.layers."


def terms(name, rows, cols, rank, lengths=False):
    out = {f"{PREFIX}{name}.lora_A.weight": np.full((rank, cols), 0.5, np.float32),
           f"{PREFIX}{name}.lora_B.weight": np.arange(rows * rank, dtype=np.float32).reshape(rows, rank)}
    if lengths:
        out[f"{PREFIX}{name}.lora_magnitude_vector"] = np.ones(rows, np.float32)
    return out


def peft(name, tensors, **config):
    config = dict(peft_type="LORA", r=2, lora_alpha=4, bias="none", fan_in_fan_out=False, **config)
    (OUT / name).write_bytes(json.dumps(config).encode() + b"\n" + save(tensors))


def gguf_file(name, tensors, architecture="llama", kind="lora"):
    writer = gguf.GGUFWriter(str(OUT / name), architecture)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", kind)
    writer.add_float32("adapter.lora.alpha", 4.0)
    for tensor, (shape, dtype) in tensors.items():
        writer.add_tensor(tensor, np.full(shape, 0.25, dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    query = terms("0.self_attn.q_proj", 8, 8, 2)
    peft("lora", query)
    peft("dora", terms("1.mlp.down_proj", 8, 12, 2, True), use_dora=True, use_rslora=True)
    peft("patterns", query | terms("1.self_attn.k_proj", 4, 8, 1), rank_pattern={"k_proj": 1},
         alpha_pattern={"layers.1.self_attn.k_proj": 0.5})
    peft("wrong_rank", query, rank_pattern={"q_proj": 3})
    peft("wrong_shape", terms("0.self_attn.k_proj", 8, 8, 2))
    peft("no_b", {k: v for k, v in query.items() if "lora_A" in k})
    peft("half", {k.replace(".weight", ".default.weight"): v.astype(np.float16) for k, v in query.items()})
    peft("embedding", {"base_model.model.model.embed_tokens.lora_embedding_A": np.zeros((2, 16), np.float32)})
    peft("head", {k.replace("model.layers.0.self_attn.q_proj", "lm_head"): v for k, v in terms("0.self_attn.q_proj", 16, 8, 2).items()})
    peft("nan", {k: v * np.float32("nan") for k, v in query.items()})
    pair = {"blk.0.ffn_up.weight.lora_a": ((2, 8), np.float32), "blk.0.ffn_up.weight.lora_b": ((12, 2), np.float16)}
    gguf_file("gguf", pair)
    gguf_file("gguf_other", pair, architecture="gemma3")
    gguf_file("gguf_kind", pair, kind="control")
    gguf_file("gguf_norm", pair | {"blk.0.attn_norm.weight": ((8,), np.float32)})


if __name__ == "__main__":
    main()
