#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Embeds texts with a BERT sentence model (safetensors; mean pooling), for results/embeddings.md. For measuring
only: needs numpy and tokenizers, which nothing else here does.

usage: embed_text.py MODEL_DIRECTORY halves TEXT OUT     paragraphs: the first half searches for the second
       embed_text.py MODEL_DIRECTORY endings TEXT OUT N  N tasks of six lines (context, label, four endings):
                                                         the context searches for its ending among all
writes OUT-docs.npy, OUT-queries.npy and OUT-qrels.tsv
"""
import bz2
import json
import math
import pathlib
import struct
import sys

import numpy as np
from tokenizers import Tokenizer

LEAST_WORDS, MOST_TOKENS, BATCH = 60, 256, 32


class Bert:
    def __init__(self, directory: pathlib.Path):
        raw = (directory / "model.safetensors").read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        self.config = json.loads((directory / "config.json").read_text())
        self.weights = {name: np.frombuffer(raw, np.float32, math.prod(t["shape"]), 8 + size + t["data_offsets"][0])
                        .reshape(t["shape"]) for name, t in json.loads(raw[8:8 + size]).items()
                        if name != "__metadata__" and t["dtype"] == "F32"}
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.tokenizer.enable_truncation(MOST_TOKENS)
        self.tokenizer.enable_padding()

    def linear(self, x, name):
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def norm(self, x, name):
        x = x - x.mean(-1, keepdims=True)
        x /= np.sqrt((x * x).mean(-1, keepdims=True) + self.config["layer_norm_eps"])
        return x * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def embed(self, texts):
        encoded = self.tokenizer.encode_batch(texts)
        ids = np.array([e.ids for e in encoded])
        mask = np.array([e.attention_mask for e in encoded], np.float32)
        w, heads = self.weights, self.config["num_attention_heads"]
        x = (w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
             + w["embeddings.position_embeddings.weight"][:ids.shape[1]])
        x = self.norm(x, "embeddings.LayerNorm")
        b, t, d = x.shape
        for i in range(self.config["num_hidden_layers"]):
            at = f"encoder.layer.{i}."
            q, k, v = (self.linear(x, at + f"attention.self.{n}").reshape(b, t, heads, d // heads)
                       .transpose(0, 2, 1, 3) for n in ("query", "key", "value"))
            scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(d // heads) + (mask[:, None, None, :] - 1) * 1e9
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = (scores / scores.sum(-1, keepdims=True)) @ v
            mixed = self.linear(mixed.transpose(0, 2, 1, 3).reshape(b, t, d), at + "attention.output.dense")
            x = self.norm(x + mixed, at + "attention.output.LayerNorm")
            h = self.linear(x, at + "intermediate.dense")
            h = h * 0.5 * (1 + erf(h / math.sqrt(2)))
            x = self.norm(x + self.linear(h, at + "output.dense"), at + "output.LayerNorm")
        pooled = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def erf(x):
    """Abramowitz and Stegun 7.1.26: to 1.5e-7."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1 - p * np.exp(-x * x))


def embed_all(model, texts, path):
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = np.empty((len(texts), model.config["hidden_size"]), np.float32)
    for at in range(0, len(order), BATCH):
        rows = order[at:at + BATCH]
        out[rows] = model.embed([texts[i] for i in rows])
    np.save(path, out)


def main() -> int:
    if len(sys.argv) < 5 or sys.argv[2] not in ("halves", "endings"):
        print(__doc__, file=sys.stderr)
        return 2
    model, source, out = Bert(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[3]), sys.argv[4]
    raw = bz2.decompress(source.read_bytes()) if source.suffix == ".bz2" else source.read_bytes()
    lines = raw.decode().split("\n")
    queries, docs, pairs = [], [], []
    if sys.argv[2] == "halves":
        for words in (line.split() for line in lines if not line.strip().startswith("=")):
            if len(words) >= LEAST_WORDS:
                pairs.append((len(queries), len(docs)))
                queries.append(" ".join(words[:len(words) // 2]))
                docs.append(" ".join(words[len(words) // 2:]))
    else:
        for at in range(0, 6 * int(sys.argv[5]), 6):
            pairs.append((len(queries), len(docs) + int(lines[at + 1])))
            queries.append(lines[at])
            docs += lines[at + 2:at + 6]
    embed_all(model, docs, out + "-docs.npy")
    embed_all(model, queries, out + "-queries.npy")
    pathlib.Path(out + "-qrels.tsv").write_text("".join(f"{q}\t{d}\t1\n" for q, d in pairs))
    print(f"{len(queries)} queries, {len(docs)} documents")
    return 0


if __name__ == "__main__":
    sys.exit(main())
