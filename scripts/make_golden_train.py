#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/train/<name>.json: loss and gradients of the tiny models of tests/golden/models, from PyTorch.

Each file holds two documents with their targets (-1: none), and per case ("full", and for some models "lora", "rslora",
"dora" by PEFT) the loss summed over targets and, per tensor, 16 sums of its gradient's elements with signs that
sign() draws, all in double. The gradients are those of the mean loss. Adapter matrices are filled by fill().
Needs torch, transformers and peft; output is a pure function of the versions, which it states.
"""
import json
import pathlib

import numpy as np
import peft
import torch
import transformers
from transformers import AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"
MODELS = ["llama-tied", "llama-untied", "llama3-rope", "gemma3", "gemma3-scaled"]
ADAPTED = {"llama-untied", "gemma3"}
LENGTHS = (23, 9)
SUMS = 16
RANK, ALPHA = 4, 12


def mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's output function."""
    x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def sums(gradient: torch.Tensor) -> list[float]:
    """Element e of sum k has a minus where the lowest bit of mix(k * 2^40 + e) is set."""
    g = gradient.detach().double().numpy().reshape(-1)
    e = np.arange(g.size, dtype=np.uint64)
    return [float(np.where(mix(e + np.uint64(k << 40)) & np.uint64(1), -g, g).sum()) for k in range(SUMS)]


def fill(shape, number: int) -> torch.Tensor:
    """Values in [-0.25, 0.25): 24 bits of mix(number * 2^40 + e)."""
    e = np.arange(int(np.prod(shape)), dtype=np.uint64)
    u = (mix(e + np.uint64(number << 40)) >> np.uint64(40)).astype(np.float64) / 2.0**24
    return torch.from_numpy((u - 0.5) / 2).reshape(shape)


def documents(vocabulary: int):
    """Token 0 is left out: it pads these models, and PyTorch's embeddings learn nothing of such a token."""
    docs = []
    for d, length in enumerate(LENGTHS):
        tokens = (mix(np.arange(length, dtype=np.uint64) + np.uint64((100 + d) << 40)) % np.uint64(vocabulary - 1) + np.uint64(1)).astype(int).tolist()
        # The second document has a prompt of three tokens that is not learnt.
        targets = [tokens[i + 1] if i + 1 < length and (d == 0 or i >= 2) else -1 for i in range(length)]
        docs.append((tokens, targets))
    return docs


def run(model, docs):
    model.zero_grad()
    total, count = 0.0, sum(t >= 0 for _, targets in docs for t in targets)
    for tokens, targets in docs:
        logits = model(torch.tensor([tokens])).logits[0]
        keep = [i for i, t in enumerate(targets) if t >= 0]
        loss = torch.nn.functional.cross_entropy(logits[keep], torch.tensor([targets[i] for i in keep]), reduction="sum")
        (loss / count).backward()
        total += loss.item()
    return total


def load(name: str):
    return AutoModelForCausalLM.from_pretrained(ROOT / "models" / name, dtype=torch.float64, attn_implementation="eager")


def adapted(name: str, **options):
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", lora_dropout=0.0, **options)
    model = peft.get_peft_model(load(name), config).double()
    number = 1
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "lora_A" in key or "lora_B" in key:
                value.copy_(fill(value.shape, number))
                number += 1
        if options.get("use_dora"):  # lengths are those of the rows of W + s B A, times a little more than one
            for module in model.modules():
                if not hasattr(module, "lora_magnitude_vector") or not len(module.lora_magnitude_vector):
                    continue
                a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
                row = torch.linalg.norm(module.base_layer.weight + module.scaling["default"] * b @ a, dim=1)
                module.lora_magnitude_vector["default"].weight.copy_(1.25 * row)
    return model


def short(key: str) -> str:
    return key.replace("base_model.model.", "").replace(".default", "")


def case(model, docs) -> dict:
    loss = run(model, docs)
    return {"loss": loss, "gradients": {short(k): sums(p.grad) for k, p in model.named_parameters() if p.requires_grad}}


def main() -> None:
    (ROOT / "train").mkdir(exist_ok=True)
    for name in MODELS:
        model = load(name)
        docs = documents(model.config.vocab_size)
        out = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
               "documents": [{"tokens": t, "targets": y} for t, y in docs], "cases": {"full": case(model, docs)}}
        if name in ADAPTED:
            order = [short(k) for k, _ in adapted(name).named_parameters() if "lora_" in k]
            out["filled"] = order  # number 1, 2, ... of fill()
            out["cases"]["lora"] = case(adapted(name), docs)
            out["cases"]["rslora"] = case(adapted(name, use_rslora=True), docs)
            out["cases"]["dora"] = case(adapted(name, use_dora=True), docs)
        text = json.dumps(out, indent=None, separators=(",", ":")).replace('},"', '},\n"').replace('],"', '],\n"')
        (ROOT / "train" / f"{name}.json").write_text(text + "\n")
        print(name, {k: v["loss"] for k, v in out["cases"].items()})


if __name__ == "__main__":
    main()
