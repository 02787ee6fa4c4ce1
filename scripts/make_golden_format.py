#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/format/blocks.gguf: what ggml's reference encoders make of a few rows, and what it decodes.

Needs numpy, gguf and a libggml-base built with floating-point contraction off:
    scripts/make_golden_format.py /path/to/libggml-base.so

Tensors: `input` (F32) and, per block type, `<type>` (the encoded blocks) and `<type>.decoded` (F32, by ggml's C
code); `<type>.random` (blocks of random bytes with finite scales) and `<type>.random.decoded` (F32, by the gguf
package's numpy code, which shares nothing with either).
Made with gguf 0.19 and ggml 0.25.3.
"""
import ctypes
import pathlib
import sys

import gguf
import numpy

OUTPUT = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/format/blocks.gguf"
TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
TYPES += ["Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS", "MXFP4", "TQ1_0", "TQ2_0"]
TYPES += ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M"]
# ggml refuses these without importance; ones are given.
NEED_IMPORTANCE = {"IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ1_S", "IQ1_M"}
# Offsets of the half-precision fields of a block.
HALVES = {"Q4_1": [0, 2], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "Q2_K": [80, 82]}
HALVES |= {"Q3_K": [108], "TQ1_0": [52], "TQ2_0": [64], "MXFP4": [], "IQ1_M": [54]}
COLS = 256


def rows() -> numpy.ndarray:
    rng = numpy.random.default_rng(5)
    normal = rng.standard_normal((4, COLS))
    ties = numpy.tile(numpy.arange(32) - 15.5, COLS // 32) / 4  # codes that end on one half
    ties[31::32] = 127 / 8
    signs = numpy.where(numpy.arange(COLS) % 3 == 0, -1.0, 1.0) * 0.75  # peaks of both signs
    zeros = numpy.where(numpy.arange(COLS) % 2 == 0, 0.0, -0.0)
    outlier = rng.standard_normal(COLS) * 0.01
    outlier[77] = -9.0
    positive = numpy.abs(rng.standard_normal(COLS)) + 0.5
    constant = numpy.full(COLS, 0.37)
    small = rng.standard_normal(COLS) * 1e-6  # half-precision scales are subnormal
    zero_minimum = numpy.maximum(rng.standard_normal(COLS), 0.0)
    zero_minimum[::5] = -0.0
    return numpy.stack([*normal, ties, signs, zeros, outlier, positive, constant, small, zero_minimum]).astype(
        numpy.float32
    )


def random_blocks(name: str, size: int) -> numpy.ndarray:
    count = 2 * COLS // gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][0]
    blocks = numpy.random.default_rng(6).integers(0, 256, (count, size), numpy.uint8)
    for at in HALVES.get(name, [0]):
        blocks[:, at + 1] &= 0xBF  # below 2
    if name == "MXFP4":
        blocks[:, 0] = numpy.minimum(blocks[:, 0], 252)
    return blocks.reshape(2, -1)


def main() -> None:
    ggml = ctypes.CDLL(sys.argv[1])
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [
        ctypes.c_void_p
    ]
    data = numpy.ascontiguousarray(rows())
    ones = numpy.ones(COLS, numpy.float32)
    writer = gguf.GGUFWriter(OUTPUT, "test")
    writer.add_tensor("input", data)
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        packed = numpy.zeros((data.shape[0], COLS // elements * size), numpy.uint8)
        importance = ones.ctypes.data if name in NEED_IMPORTANCE else None
        count = ggml.ggml_quantize_chunk(
            kind.value, data.ctypes.data, packed.ctypes.data, 0, data.shape[0], COLS, importance
        )
        assert count == packed.nbytes
        decoded = numpy.zeros_like(data)
        decode = getattr(ggml, "dequantize_row_" + name.lower().replace("_k", "_K"))
        decode.restype = None
        decode.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        decode(packed.ctypes.data, decoded.ctypes.data, data.size)
        writer.add_tensor(name.lower(), packed, raw_dtype=kind)
        writer.add_tensor(name.lower() + ".decoded", decoded)
        blocks = random_blocks(name, size)
        writer.add_tensor(name.lower() + ".random", blocks, raw_dtype=kind)
        writer.add_tensor(name.lower() + ".random.decoded", gguf.quants.dequantize(blocks, kind).astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
