#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains a small llama on text files: a model whose weights lie on no quantisation grid and whose widths divide by 256.

    scripts/train_tiny.py --minutes 12 --output DIR text.txt...

Writes DIR as a Hugging Face directory (float32 weights, byte-level BPE tokenizer of GPT-2's kind) and DIR/held-out.txt,
the last twentieth of every text, which was not trained on. One thread; stops at the time given, so two runs differ.
Needs torch, transformers and tokenizers. For measurements only.
"""
import argparse
import json
import math
import pathlib
import time

import tokenizers
import torch
from transformers import LlamaConfig, LlamaForCausalLM

CONTEXT = 512
BATCH = 2
VOCABULARY = 2048
END = "<|endoftext|>"


def split(paths: list[pathlib.Path]) -> tuple[str, str]:
    train, held_out = [], []
    for path in paths:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        cut = len(lines) - len(lines) // 20
        train += lines[:cut]
        held_out += lines[cut:]
    return "".join(train), "".join(held_out)


def train_tokenizer(text: str) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.train_from_iterator(
        text.splitlines(keepends=True),
        tokenizers.trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=[END], show_progress=False,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def make_model(layers: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=768, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=CONTEXT, rms_norm_eps=1e-5, rope_theta=10000.0,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=None))


def learning_rate(progress: float) -> float:
    warm = min(progress / 0.03, 1.0)
    return 2e-3 * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def train(model: LlamaForCausalLM, tokens: torch.Tensor, seconds: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.95), weight_decay=0.1)
    generator = torch.Generator().manual_seed(1)
    start, step, total = time.monotonic(), 0, 0.0
    while (elapsed := time.monotonic() - start) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(elapsed / seconds)
        at = torch.randint(0, len(tokens) - CONTEXT, (BATCH,), generator=generator)
        batch = torch.stack([tokens[i : i + CONTEXT] for i in at])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        total += loss.item()
        if step % 50 == 0:
            print(f"{elapsed:6.0f} s, step {step}: loss {total / 50:.3f}", flush=True)
            total = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=pathlib.Path, nargs="+")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--layers", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    text, held_out = split(arguments.text)
    tokenizer = train_tokenizer(text)
    tokens = torch.tensor(tokenizer.encode(text).ids)
    model = make_model(arguments.layers)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(tokens)} tokens", flush=True)
    train(model, tokens, 60 * arguments.minutes)
    arguments.output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(arguments.output)
    tokenizer.save(str(arguments.output / "tokenizer.json"))
    (arguments.output / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END, "add_bos_token": False},
        indent=2) + "\n")
    (arguments.output / "held-out.txt").write_text(held_out, encoding="utf-8")


if __name__ == "__main__":
    main()
