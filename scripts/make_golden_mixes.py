#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/format/mixes.json: the type that llama-quantize gives each matrix, for several model shapes.

    scripts/make_golden_mixes.py /path/to/llama-quantize

Each shape is written as a GGUF without data (a sparse file) and put through `llama-quantize --dry-run` for every mix.
Per case: the facts, per role the columns of its matrix, and per mix and role the types of all layers, run-length coded
("q6_k*2 q4_k"). Made with llama.cpp as in llama-cpp-python 0.3.36 and gguf 0.19.
"""
import itertools
import json
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

import gguf

OUTPUT = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/format/mixes.json"
MIXES = (
    "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q2_K_S Q3_K Q3_K_S Q3_K_M Q3_K_L Q4_K Q4_K_S Q4_K_M Q5_K Q5_K_S Q5_K_M Q6_K "
    "IQ4_NL IQ4_XS IQ3_XXS IQ3_XS IQ3_S IQ3_M IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ1_S IQ1_M TQ1_0 TQ2_0 MXFP4_MOE"
).split()

# name: architecture, layers, hidden, ffn, heads, kv_heads, experts, tied, importance, fused
CASES = {
    "7b": ("llama", 32, 4096, 11008, 32, 32, 0, False, False, False),
    "7b with importance": ("llama", 32, 4096, 11008, 32, 32, 0, False, True, False),
    "8b": ("llama", 32, 4096, 14336, 32, 8, 0, False, False, False),
    "70b": ("llama", 80, 8192, 28672, 64, 8, 0, False, False, False),
    "72b": ("qwen2", 80, 8192, 29696, 64, 8, 0, False, False, False),
    "1b": ("llama", 16, 2048, 8192, 32, 8, 0, True, False, False),
    "135m": ("llama", 30, 576, 1536, 9, 3, 0, True, False, False),
    "270m": ("gemma3", 18, 640, 2048, 4, 1, 0, True, False, False),
    "8 experts": ("llama", 32, 4096, 14336, 32, 8, 8, False, False, False),
    "8 experts with importance": ("llama", 32, 4096, 14336, 32, 8, 8, False, True, False),
    "128 experts": ("qwen3moe", 48, 2048, 768, 32, 4, 128, False, False, False),
    "fused": ("phi3", 33, 3072, 8192, 32, 32, 0, False, False, True),
    "odd": ("llama", 3, 100, 300, 2, 1, 0, False, False, False),
}
VOCABULARY = 64


def matrices(case: tuple) -> dict[str, tuple[int, ...]]:
    """Shapes [rows, columns], slowest first, of one layer's matrices."""
    _, _, hidden, ffn, heads, kv_heads, experts, _, _, fused = case
    keys = hidden // heads * kv_heads
    own = {"attn_qkv": (hidden + 2 * keys, hidden)} if fused else {
        "attn_q": (hidden, hidden), "attn_k": (keys, hidden), "attn_v": (keys, hidden)}
    own["attn_output"] = (hidden, hidden)
    if experts:
        own |= {"ffn_gate_exps": (experts, ffn, hidden), "ffn_up_exps": (experts, ffn, hidden),
                "ffn_down_exps": (experts, hidden, ffn)}
    elif fused:
        own |= {"ffn_up": (2 * ffn, hidden), "ffn_down": (hidden, ffn)}
    else:
        own |= {"ffn_gate": (ffn, hidden), "ffn_up": (ffn, hidden), "ffn_down": (hidden, ffn)}
    return own


def tensors(case: tuple) -> dict[str, tuple[int, ...]]:
    _, layers, hidden, _, _, _, _, tied, _, _ = case
    shapes = {"token_embd.weight": (VOCABULARY, hidden)}
    for layer, (role, shape) in itertools.product(range(layers), matrices(case).items()):
        shapes[f"blk.{layer}.{role}.weight"] = shape
    if not tied:
        shapes["output.weight"] = (VOCABULARY, hidden)
    return shapes


def write_model(path: pathlib.Path, case: tuple) -> None:
    architecture, layers, hidden, ffn, heads, kv_heads, experts, _, _, _ = case
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(4096)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_vocab_size(VOCABULARY)
    writer.add_sliding_window(512)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(ffn)
    total = 0
    for name, shape in tensors(case).items():
        count = 2
        for extent in shape:
            count *= extent
        writer.add_tensor_info(name, shape, gguf.np.dtype("float16"), count)
        total += (count + 31) // 32 * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with open(path, "ab") as file:
        start = (file.tell() + 31) // 32 * 32
        file.truncate(start + total)


def write_importance(path: pathlib.Path, case: tuple) -> None:
    """llama.cpp's older imatrix format, all ones."""
    entries = {name: shape for name, shape in tensors(case).items() if name.startswith("blk.")}
    with open(path, "wb") as file:
        file.write(struct.pack("<i", len(entries)))
        for name, shape in entries.items():
            values = shape[-1] * (shape[0] if len(shape) == 3 else 1)
            file.write(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 1, values))
            file.write(struct.pack("<f", 1.0) * values)


def run_lengths(types: list[str]) -> str:
    runs = [(kind, len(list(group))) for kind, group in itertools.groupby(types)]
    return " ".join(kind if count == 1 else f"{kind}*{count}" for kind, count in runs)


def types_of(quantize: str, model: pathlib.Path, mix: str, importance: pathlib.Path | None) -> dict[str, str]:
    steer = ["--imatrix", str(importance)] if importance else []
    command = [quantize, "--dry-run", *steer, str(model), mix, "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = {}
    for line in (done.stdout + done.stderr).splitlines():
        if line.startswith("[") and (name := re.match(r"\[ *\d+/ *\d+\] (\S+)", line)):
            kind = re.search(r"\((\w+)\)\s*$", line)
            found[name[1]] = kind[1].lower() if kind else "f16"
    return found


def make_case(quantize: str, case: tuple, scratch: pathlib.Path) -> dict:
    architecture, layers, _, _, heads, kv_heads, experts, tied, importance, _ = case
    model, matrix = scratch / "model.gguf", scratch / "imatrix.dat"
    write_model(model, case)
    if importance:
        write_importance(matrix, case)
    roles = list(matrices(case))
    record = {
        "architecture": architecture, "layers": layers, "heads": heads, "kv_heads": kv_heads, "experts": experts,
        "tied": tied, "importance": importance, "hidden": case[2],
        "columns": {role: shape[-1] for role, shape in matrices(case).items()}, "mixes": {},
    }
    for mix in MIXES:
        types = types_of(quantize, model, mix, matrix if importance else None)
        assert set(types) == set(tensors(case)), mix
        row = {"token_embd": types["token_embd.weight"]}
        if not tied:
            row["output"] = types["output.weight"]
        for role in roles:
            row[role] = run_lengths([types[f"blk.{layer}.{role}.weight"] for layer in range(layers)])
        record["mixes"][mix] = row
    model.unlink()
    return record


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        golden = {name: make_case(sys.argv[1], case, pathlib.Path(scratch)) for name, case in CASES.items()}
    lines = []
    for name, record in golden.items():
        rows = record.pop("mixes")
        head = json.dumps(record)[:-1] + ', "mixes": {\n'
        lines.append(f" {json.dumps(name)}: {head}" + ",\n".join(
            f"  {json.dumps(mix)}: {json.dumps(row, separators=(',', ':'))}" for mix, row in rows.items()) + "}}")
    OUTPUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
