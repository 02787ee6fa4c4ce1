#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/models/hgrn-bit, a tiny random MatMul-free model, and what it computes.

The directory is a Hugging Face one as HGRNBitForCausalLM saves it, weights as training left them (F32).
hgrn-bit.golden.safetensors holds, per prompt i, `prompt.i` (I32), `logits.i` (F64, [tokens, vocab]), `greedy.i`
(I32); `lower_bounds` (F64, [layers, hidden]); and for each ternary matrix its scale (`scale.<tensor>`, F64, before it
is rounded to F16) and the codes of its first row (`codes.<tensor>`, I8). Everything in NumPy's float64, token by
token, written from the paper "Scalable MatMul-free Language Modeling" (2024) and the published modelling code's order
of operations: a scale is one of a whole matrix, a norm belongs to each product, the second norm of the mixer is that
of the gate, and SiLU is applied to the state. Output is a pure function of the versions of NumPy and safetensors.
"""
import json
import pathlib
import shutil

import numpy as np
import safetensors
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "models"
NAME = "hgrn-bit"
SEED = 20240604
LAYERS, HIDDEN, FFN, VOCAB = 2, 64, 256, 128
EPSILON = 1e-6
PROMPTS, GREEDY_TOKENS = [5, 40], 16
LEAST_MARGIN = 0.005  # between the two largest logits at each greedy step: above what rounding can move


def make_weights(rng):
    def normal(*shape, deviation=0.02):
        return (deviation * rng.standard_normal(shape)).astype(np.float32)

    def norm(n):
        return (1 + 0.2 * rng.standard_normal(n)).astype(np.float32)

    w = {"model.embeddings.weight": normal(VOCAB, HIDDEN, deviation=0.5),
         "model.lower_bounds": normal(LAYERS, HIDDEN, deviation=1.0)}

    def bit_linear(name, rows, cols):
        w[name + ".weight"] = normal(rows, cols)
        w[name + ".norm.weight"] = norm(cols)

    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        w[at + "attn_norm.weight"], w[at + "mlp_norm.weight"] = norm(HIDDEN), norm(HIDDEN)
        for name in "ifgo":
            bit_linear(at + f"attn.{name}_proj", HIDDEN, HIDDEN)
        w[at + "attn.g_norm.weight"] = norm(HIDDEN)
        bit_linear(at + "mlp.gate_proj", 2 * FFN, HIDDEN)
        bit_linear(at + "mlp.down_proj", HIDDEN, FFN)
    w["model.norm.weight"] = norm(HIDDEN)
    bit_linear("lm_head", VOCAB, HIDDEN)
    return w


def is_ternary(name):
    return name == "lm_head.weight" or name.endswith("_proj.weight")


def ternary(w):
    """Codes and the scale that makes them."""
    scale = max(np.abs(w.astype(np.float64)).mean(), 1e-5)
    return np.clip(np.rint(w.astype(np.float64) / scale), -1, 1), scale


def rms_norm(x, weight, epsilon=EPSILON):
    return x / np.sqrt((x * x).mean() + epsilon) * weight.astype(np.float64)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def lower_bounds(raw):
    raw = raw.astype(np.float64)
    p = np.exp(raw - raw.max(0))
    p /= p.sum(0)
    return np.cumsum(p, 0) - p[0]


class Model:
    def __init__(self, weights):
        self.w = weights
        self.bounds = lower_bounds(weights["model.lower_bounds"])
        self.matrices = {}
        for name, w in weights.items():
            if not is_ternary(name):
                continue
            codes, scale = ternary(w)
            self.matrices[name] = codes * np.float64(np.float16(scale))
        self.reset()

    def reset(self):
        self.h = np.zeros((LAYERS, HIDDEN))

    def product(self, name, x):
        x = rms_norm(x, self.w[name + ".norm.weight"], 1e-6)
        s = 127 / max(np.abs(x).max(), 1e-5)
        return self.matrices[name + ".weight"] @ (np.clip(np.rint(x * s), -128, 127) / s)

    def step(self, token):
        x = self.w["model.embeddings.weight"][token].astype(np.float64)
        for layer in range(LAYERS):
            at = f"model.layers.{layer}."
            y = rms_norm(x, self.w[at + "attn_norm.weight"])
            f = sigmoid(self.product(at + "attn.f_proj", y))
            if layer > 0:
                f = self.bounds[layer] + (1 - self.bounds[layer]) * f
            i = silu(self.product(at + "attn.i_proj", y)) * (1 - f)
            self.h[layer] = f * self.h[layer] + i
            g = rms_norm(self.product(at + "attn.g_proj", y), self.w[at + "attn.g_norm.weight"])
            x = x + self.product(at + "attn.o_proj", g * silu(self.h[layer]))
            y = rms_norm(x, self.w[at + "mlp_norm.weight"])
            both = self.product(at + "mlp.gate_proj", y)
            x = x + self.product(at + "mlp.down_proj", silu(both[:FFN]) * both[FFN:])
        return self.product("lm_head", rms_norm(x, self.w["model.norm.weight"]))


def main():
    rng = np.random.default_rng(SEED)
    weights = make_weights(rng)
    model = Model(weights)
    golden = {"lower_bounds": model.bounds}
    for name in model.matrices:
        codes, scale = ternary(weights[name])
        golden["scale." + name] = np.array([scale])
        golden["codes." + name] = codes[0].astype(np.int8)
    for number, count in enumerate(PROMPTS):
        while True:
            model.reset()
            prompt = rng.integers(3, VOCAB, count)
            logits = [model.step(token) for token in prompt]
            greedy, margin = [], 1.0
            last = logits[-1]
            for _ in range(GREEDY_TOKENS):
                order = np.sort(last)
                margin = min(margin, order[-1] - order[-2])
                greedy.append(int(last.argmax()))
                last = model.step(greedy[-1])
            if margin >= LEAST_MARGIN:
                break
        golden[f"prompt.{number}"] = prompt.astype(np.int32)
        golden[f"logits.{number}"] = np.stack(logits)
        golden[f"greedy.{number}"] = np.array(greedy, np.int32)

    config = dict(
        architectures=["HGRNBitForCausalLM"], attn_mode="fused_recurrent", bos_token_id=1, conv_size=4, eos_token_id=2,
        expand_ratio=1, fuse_cross_entropy=True, hidden_act="swish", hidden_ratio=1, hidden_size=HIDDEN,
        initializer_range=0.02, intermediate_size=None, max_position_embeddings=128, model_type="hgrn_bit", num_heads=1,
        num_hidden_layers=LAYERS, rms_norm_eps=EPSILON, share_conv_kernel=True, tie_word_embeddings=False,
        torch_dtype="float32", use_cache=True, use_lower_bound=True, use_short_conv=False, vocab_size=VOCAB)
    directory = OUT / NAME
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    save_file({k: np.ascontiguousarray(v) for k, v in golden.items()}, OUT / (NAME + ".golden.safetensors"),
              {"numpy": np.__version__, "safetensors": safetensors.__version__, "seed": str(SEED)})


if __name__ == "__main__":
    main()
