#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/df11: a tiny model in the layout of DFloat11's authors ("70% Size, 100%
Accuracy: Lossless LLM Compression for Efficient GPU Inference via Dynamic-Length Float", 2025), and
expected.json with what its tensors are. An implementation apart from ours, in plain Python: Huffman
codes by a heap with a symbol for the end, bits as text. Some modules lie in files of their own, as
the authors' tool writes them.

    scripts/make_golden_df11.py [DIRECTORY]
"""
import hashlib
import heapq
import json
import math
import os
import random
import struct
import sys

HIDDEN = 16
THREAD_BITS = 64
BLOCK_THREADS = 512
END = -1


def huffman(counts):
    """Symbol -> bits as text; the end's symbol counts once."""
    heap = [(n, [s]) for s, n in sorted(counts.items())] + [(1, [END])]
    codes = {s: "" for _, symbols in heap for s in symbols}
    heapq.heapify(heap)
    while len(heap) > 1:
        a, b = heapq.heappop(heap), heapq.heappop(heap)
        for bit, part in (("0", a), ("1", b)):
            for s in part[1]:
                codes[s] = bit + codes[s]
        heapq.heappush(heap, (a[0] + b[0], a[1] + b[1]))
    return codes


def tables(codes):
    prefixes = sorted({c[:k] for c in codes.values() for k in range(0, len(c), 8)}, key=lambda p: (len(p), p))
    out = []
    for prefix in prefixes:
        row = [0] * 256
        for byte in range(256):
            bits = prefix + format(byte, "08b")
            if bits in prefixes:
                row[byte] = 256 - prefixes.index(bits)
                continue
            # A code that these bits begin with; else what a byte before it says.
            row[byte] = row[byte - 1] if byte else 0
            for symbol, code in codes.items():
                if symbol != END and bits.startswith(code):
                    row[byte] = symbol
        out += row
    lengths = [0] * 256
    for symbol, code in codes.items():
        if symbol != END:
            lengths[symbol] = len(code)
    return bytes(out + lengths), len(prefixes) + 1


def encode(numbers):
    """The tensors of one module, without the splits."""
    exponents = [w >> 7 & 255 for w in numbers]
    codes = huffman({e: exponents.count(e) for e in set(exponents)})
    print("codes of", min(map(len, codes.values())), "to", max(map(len, codes.values())), "bits")
    assert max(map(len, codes.values())) <= 32
    starts, at = [], 0
    for e in exponents:
        starts.append(at)
        at += len(codes[e])
    text = "".join(codes[e] for e in exponents)
    if len(text) % 8:
        text += (codes[END] + "0" * 8)[: 8 - len(text) % 8]
    stream = bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    blocks = math.ceil(len(stream) * 8 / THREAD_BITS / BLOCK_THREADS)
    gaps, positions = {}, {}
    for i, start in enumerate(starts):
        gaps.setdefault(start // THREAD_BITS, start % THREAD_BITS)
        positions.setdefault(start // THREAD_BITS // BLOCK_THREADS, i)
    gap_text = "".join(format(gaps.get(t, 0), "05b") for t in range(blocks * BLOCK_THREADS))
    luts, count = tables(codes)
    return {
        "luts": ("U8", [count, 256], luts),
        "encoded_exponent": ("U8", [len(stream)], stream),
        "sign_mantissa": ("U8", [len(numbers)], bytes((w >> 8 & 128) | (w & 127) for w in numbers)),
        "output_positions": ("U8", [4 * (blocks + 1)],
                             b"".join(struct.pack("<I", positions.get(b, len(numbers)))
                                      for b in range(blocks)) + struct.pack("<I", len(numbers))),
        "gaps": ("U8", [len(gap_text) // 8],
                 bytes(int(gap_text[i : i + 8], 2) for i in range(0, len(gap_text), 8))),
    }


def module(name, matrices):
    numbers, splits = [], []
    for weights in matrices:
        if numbers:
            splits.append(len(numbers))
        numbers += weights
    parts = encode(numbers)
    parts["split_positions"] = ("I64", [len(splits)], struct.pack(f"<{len(splits)}q", *splits))
    return {f"{name}.{key}": part for key, part in parts.items()}


def safetensors(path, tensors):
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text + data)


def normal(rng, count):
    return [struct.unpack("<I", struct.pack("<f", rng.gauss(0, 0.02)))[0] >> 16 for _ in range(count)]


def skewed(rng, count):
    """Exponents so uneven that codes have up to 14 bits."""
    out = []
    for k in range(17):
        out += [(100 + k) << 7 | rng.getrandbits(7) | rng.getrandbits(1) << 15] * max(1, round(1.62**k))
    rng.shuffle(out)
    return (out * 2)[:count]


def main():
    directory = sys.argv[1] if len(sys.argv) > 1 else os.path.join(
        os.path.dirname(__file__), "..", "tests", "golden", "df11")
    os.makedirs(directory, exist_ok=True)
    rng = random.Random(11)
    weights = {
        "model.embed_tokens": ([700, HIDDEN], normal(rng, 700 * HIDDEN)),  # more than a block
        "lm_head": ([30, HIDDEN], [0x3F80] * (30 * HIDDEN)),  # one exponent
    }
    for layer in range(2):
        make = skewed if layer else normal
        weights[f"model.layers.{layer}.self_attn.q_proj"] = ([48, HIDDEN], make(rng, 48 * HIDDEN))
        weights[f"model.layers.{layer}.self_attn.o_proj"] = ([HIDDEN, 48], make(rng, 48 * HIDDEN))
        weights[f"model.layers.{layer}.mlp.down_proj"] = ([HIDDEN, 400], make(rng, 400 * HIDDEN))
    files = {"model": {}}
    for name in ("model.embed_tokens", "lm_head"):
        files["model"].update(module(name, [weights[name][1]]))
    paths = ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"]
    for layer in range(2):
        name = f"model.layers.{layer}"
        files[name.replace(".", "_")] = module(name, [weights[f"{name}.{p}"][1] for p in paths])
    expected = {f"{name}.weight": (shape, struct.pack(f"<{len(w)}H", *w)) for name, (shape, w) in weights.items()}
    for layer in range(2):
        name, raw = f"model.layers.{layer}.input_layernorm.weight", bytes(range(2 * HIDDEN))
        files["model"][name] = ("BF16", [HIDDEN], raw)
        expected[name] = ([HIDDEN], raw)
    for name, tensors in files.items():
        safetensors(os.path.join(directory, f"{name}.safetensors"), tensors)
    config = {
        "hidden_size": HIDDEN,
        "dfloat11_config": {
            "version": "0.5.0",
            "threads_per_block": [BLOCK_THREADS],
            "bytes_per_thread": THREAD_BITS // 8,
            "pattern_dict": {r"model\.embed_tokens": [], r"lm_head": [], r"model\.layers\.\d+": paths},
        },
    }
    with open(os.path.join(directory, "config.json"), "w") as out:
        out.write(json.dumps(config, indent=2) + "\n")
    with open(os.path.join(directory, "expected.json"), "w") as out:
        facts = {n: {"shape": s, "sha256": hashlib.sha256(raw).hexdigest()} for n, (s, raw) in expected.items()}
        out.write(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
