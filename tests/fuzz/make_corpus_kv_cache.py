#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seed inputs of the fuzz target kv_cache (corpus/kv_cache/): saved caches of two layers, one K/V head of 16, the
second with a window of 20, under h2o:budget=12."""
import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus" / "kv_cache"
ROW = 16 * 2  # f16


def part(slots, first=0, channels=(), bias=False):
    return {"first": first, "slots": [slots], "channels": list(channels), "bias": bias}


def layer(parts, sparse=False, sums=0, floor=0, prompt=0):
    return {"sparse": sparse, "floor": floor, "prompt_tokens": prompt, "parts": parts, "sums": [sums]}


def saved(seen, layers, tensors, **other):
    head = {"version": 2, "model": "m", "policy": "h2o:budget=12", "type_k": "f16", "type_v": "f16", "seen": seen, "written": seen,
            "tokens": list(range(seen)), "layers": layers} | other
    all_tensors = {"thimble.kv": json.dumps(head).encode()} | tensors
    header, data = {}, b""
    for name, raw in all_tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(raw)], "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def rows(number, count, width=ROW):
    return {f"layer.{number}/part.0/{what}": bytes(count * (width if what == "keys" else ROW)) for what in ("keys", "values")}


def positions(number, values):
    return {f"layer.{number}/part.0/positions": struct.pack(f"<{len(values)}i", *values)}


def sums(number, count):
    return {f"layer.{number}/policy/sums": struct.pack(f"<{count}f", *([0.5] * count))}


def seeds():
    dense = rows(0, 10) | sums(0, 10) | rows(1, 10)
    yield "dense", saved(10, [layer([part(10)], sums=10), layer([part(10)])], dense)
    edited = rows(0, 12) | positions(0, range(18, 30)) | sums(0, 12) | rows(1, 30)
    yield "edited", saved(30, [layer([part(12)], sparse=True, sums=12, floor=30, prompt=25), layer([part(30)])], edited)
    narrow = (rows(0, 4, 8) | positions(0, range(4)) | rows(1, 6)
              | {"layer.0/part.1/keys": bytes(2 * ROW), "layer.0/part.1/values": bytes(2 * ROW),
                 "layer.0/part.1/positions": struct.pack("<2i", 4, 5)})
    yield "narrow", saved(6, [layer([part(4, channels=[[0, 3, 5, 9]]), part(2)], sparse=True, floor=6), layer([part(6)])], narrow)
    merged = edited | {"layer.0/part.0/bias": struct.pack("<12f", *([0.0] * 12))}
    yield "merged", saved(30, [layer([part(12, bias=True)], sparse=True, sums=12), layer([part(30)])], merged)
    yield "outside", saved(30, [layer([part(12)], sparse=True, sums=12), layer([part(30)])],
                           edited | positions(0, range(25, 37)))
    yield "short", saved(10, [layer([part(9)], sums=9), layer([part(10)])], rows(0, 9) | sums(0, 9) | rows(1, 10))
    yield "foreign", saved(10, [layer([part(10)], sums=10), layer([part(10)])], dense, model="other")


def main():
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, raw in seeds():
        (CORPUS / name).write_bytes(raw)


if __name__ == "__main__":
    main()
