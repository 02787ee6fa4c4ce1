#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the tiny containers of tests/golden/io with the reference packages of each format.

Byte b of the tensor numbered t (in name order) is (31 * t + b) mod 256, whatever its type
(booleans: that mod 2).
Made with gguf 0.19.0 and safetensors 0.8.0 on Python 3.11; run from anywhere.
"""
import json
import pathlib

import gguf
import numpy as np
from safetensors import TensorSpec, serialize_file

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "io"
SAFETENSORS_TYPES = {
    "BF16": 2, "BOOL": 1, "F16": 2, "F32": 4, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1,
    "I16": 2, "I32": 4, "I64": 8, "I8": 1, "U8": 1,
}
SPELLING = {"BF16": "bfloat16", "BOOL": "bool", "F16": "float16", "F32": "float32", "F64": "float64",
            "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I16": "int16", "I32": "int32",
            "I64": "int64", "I8": "int8", "U8": "uint8"}


def pattern(t, n):
    return np.array([(31 * t + b) % 256 for b in range(n)], dtype=np.uint8)


def write_safetensors():
    tensors, data = {}, {}  # `data` keeps the buffers alive
    for t, (name, width) in enumerate(sorted(SAFETENSORS_TYPES.items())):
        data[name] = pattern(t, 15 * width)
        if name == "BOOL":
            data[name] %= 2
        tensors[name] = TensorSpec(dtype=SPELLING[name], shape=[3, 5],
                                   data_ptr=data[name].ctypes.data, data_len=data[name].nbytes)
    serialize_file(tensors, str(OUT / "every_type.safetensors"), {"format": "pt"})


def write_gguf():
    writer = gguf.GGUFWriter(str(OUT / "every_type.gguf"), "llama")
    writer.add_uint8("t.u8", 200)
    writer.add_int8("t.i8", -100)
    writer.add_uint16("t.u16", 60000)
    writer.add_int16("t.i16", -30000)
    writer.add_uint32("t.u32", 4000000000)
    writer.add_int32("t.i32", -2000000000)
    writer.add_float32("t.f32", 1.5)
    writer.add_bool("t.bool", True)
    writer.add_string("t.string", "café")
    writer.add_array("t.strings", ["a", "", "b"])
    writer.add_array("t.ints", [1, -2, 3])
    writer.add_array("t.floats", [0.5, -1.0])
    writer.add_uint64("t.u64", 2**64 - 1)
    writer.add_int64("t.i64", -5000000000)
    writer.add_float64("t.f64", 0.1)
    for t, kind in enumerate([gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q4_K,
                              gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.I16]):
        block, size = gguf.GGML_QUANT_SIZES[kind]
        row_bytes = 256 // block * size
        data = pattern(t, 3 * row_bytes).reshape(3, row_bytes)
        if kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor("t0.f32", data.view(np.float32))
        elif kind == gguf.GGMLQuantizationType.I16:
            writer.add_tensor("t3.i16", data.view(np.int16))
        else:
            writer.add_tensor(f"t{t}.{kind.name.lower()}", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    write_safetensors()
    write_gguf()
    print(json.dumps({p.name: p.stat().st_size for p in sorted(OUT.iterdir())}))
