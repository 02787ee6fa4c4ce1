#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/adapters: adapters that PEFT makes for the tiny models of tests/golden/models.

Each <name>/ is what save_pretrained() writes;
<name>.golden.safetensors holds, for the model's second prompt, the logits with the adapter and without (F32, computed
in F64), and the versions that made them. Values are random, so that no term is zero.
Needs torch, transformers, peft and safetensors; output is a pure function of the versions.
"""
import json
import pathlib
import shutil

import peft
import safetensors
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
FFN = ["gate_proj", "up_proj", "down_proj"]

ADAPTERS = {
    # Everything in every layer; one matrix has a rank and an alpha of its own.
    "lora": ("llama-untied", dict(
        r=3, lora_alpha=5, target_modules=ATTENTION + FFN,
        rank_pattern={"layers.1.self_attn.q_proj": 2}, alpha_pattern={"layers.1.self_attn.q_proj": 7})),
    "rslora": ("llama-tied", dict(r=4, lora_alpha=4, use_rslora=True, target_modules=ATTENTION + FFN)),
    # Rows of queries and keys change places between the containers; so do lengths.
    "dora": ("llama3-rope", dict(r=2, lora_alpha=4, use_dora=True, target_modules=["q_proj", "k_proj", "down_proj", "lm_head"])),
    "dora-gemma": ("gemma3-scaled", dict(r=2, lora_alpha=3, use_dora=True, use_rslora=True, target_modules=ATTENTION + FFN)),
    "lora-layer": ("gemma3", dict(r=2, lora_alpha=2, target_modules=["q_proj", "v_proj"], layers_to_transform=[2])),
}


def fill(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            if "lora_magnitude_vector" in name:
                p.mul_(1 + 0.2 * noise)
            elif "lora_" in name:
                p.copy_(0.5 * noise / p.shape[1] ** 0.5)


def make(name, base, options, seed):
    model = AutoModelForCausalLM.from_pretrained(ROOT / "models" / base, dtype=torch.float32, attn_implementation="eager")
    with safe_open(ROOT / "models" / f"{base}.golden.safetensors", "pt") as golden:
        prompt = golden.get_tensor("prompt.1").long()[None]
    with torch.no_grad():
        plain = model.double()(prompt).logits[0]
    adapted = peft.get_peft_model(model.float(), peft.LoraConfig(task_type="CAUSAL_LM", **options))
    fill(adapted, seed)
    directory = ROOT / "adapters" / name
    shutil.rmtree(directory, ignore_errors=True)
    adapted.save_pretrained(directory, save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = base
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    with torch.no_grad():
        logits = adapted.double()(prompt).logits[0]
    made_with = (f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}, "
                 f"safetensors {safetensors.__version__}, seed {seed}")
    save_file({"logits": logits.float().contiguous(), "plain": plain.float().contiguous()},
              ROOT / "adapters" / f"{name}.golden.safetensors", metadata={"model": base, "made_with": made_with})
    print(f"{name}: logits move by {float((logits - plain).std()):.2f}, {sum(f.stat().st_size for f in directory.iterdir())} bytes")


def main():
    torch.set_num_threads(1)
    (ROOT / "adapters").mkdir(parents=True, exist_ok=True)
    for number, (name, (base, options)) in enumerate(ADAPTERS.items()):
        make(name, base, options, 100 + number)


if __name__ == "__main__":
    main()
