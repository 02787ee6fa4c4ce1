#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/format/nf4.gguf and fp4.gguf: what bitsandbytes makes of normal weights, with double quantisation
and without.

    scripts/make_golden_nf4.py

Tensors: `input` (BF16 [rows, cols]); `codes`, `peaks` (the bytes), `values` (the 16 levels and the 256 of the nested
map) and `nested` (offset, then scales), both F32. bitsandbytes' 8-bit codes are not the nearest where two are almost as
near; a seed is taken for which there is no such peak. fp4.gguf has groups of 128, `peaks` are F32, `nested` is absent.
Made with bitsandbytes 0.50.2 on the CPU, torch 2.13.0.
"""
import pathlib

import bitsandbytes.functional as bnb
import gguf
import torch

OUTPUT = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/format"
ROWS, COLS = 36, 512  # 288 groups of 64: two scales of their peaks
MARGIN = 0.02  # of the step between two nested codes


def quantised(seed: int, kind: str = "nf4", group: int = 64, nested: bool = True):
    generator = torch.Generator().manual_seed(seed)
    spread = 0.01 + 0.04 * torch.rand(ROWS, 1, generator=generator)
    weight = (torch.randn(ROWS, COLS, generator=generator) * spread).bfloat16()
    codes, state = bnb.quantize_4bit(weight.float(), blocksize=group, quant_type=kind, compress_statistics=nested)
    return weight, codes, state


def has_margin(weight, state) -> bool:
    peaks = weight.float().reshape(-1, 64).abs().amax(1) - state.offset
    scale = state.state2.absmax.repeat_interleave(256)[: len(peaks)]
    distance = (peaks / scale)[:, None] - state.state2.code
    near = distance.abs().sort(1).values
    return bool((near[:, 1] - near[:, 0] > MARGIN * (near[:, 1] + near[:, 0])).all())


def write(name: str, seed: int, weight, codes, state) -> None:
    writer = gguf.GGUFWriter(OUTPUT / name, "golden")
    writer.add_string("made.seed", str(seed))
    raw = weight.view(torch.int16).numpy()
    writer.add_tensor("input", raw.view("uint8"), raw_shape=(ROWS, 2 * COLS), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.add_tensor("codes", codes.reshape(ROWS, COLS // 2).numpy().view("int8"))
    if state.nested:
        writer.add_tensor("peaks", state.absmax.reshape(ROWS, COLS // 64).numpy().view("int8"))
        writer.add_tensor("values", torch.cat([state.code, state.state2.code]).float().numpy())
        writer.add_tensor("nested", torch.cat([state.offset.reshape(1), state.state2.absmax]).float().numpy())
    else:
        writer.add_tensor("peaks", state.absmax.reshape(ROWS, -1).float().numpy())
        writer.add_tensor("values", state.code.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(OUTPUT / name, seed)


def main() -> None:
    seed = next(s for s in range(10000) if has_margin(*quantised(s)[::2]))
    write("nf4.gguf", seed, *quantised(seed))
    write("fp4.gguf", seed, *quantised(seed, "fp4", 128, False))


if __name__ == "__main__":
    main()
