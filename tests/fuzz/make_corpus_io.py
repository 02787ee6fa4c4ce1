#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seed inputs of the fuzz targets gguf, safetensors, json, index, importance and
npy (corpus/<target>/)."""
import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"
U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARRAY, U64, I64, F64 = range(13)
PACK = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q",
        I64: "q", F64: "d"}


def text(s):
    raw = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(raw)) + raw


def scalar(kind, value):
    return text(value) if kind == STR else struct.pack("<" + PACK[kind], value)


def key(name, kind, value):
    return text(name) + struct.pack("<I", kind) + scalar(kind, value)


def array(name, kind, values):
    return (text(name) + struct.pack("<IIQ", ARRAY, kind, len(values))
            + b"".join(scalar(kind, v) for v in values))


def tensor(name, dims, kind, offset):
    return (text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
            + struct.pack("<IQ", kind, offset))


def gguf(keys=(), tensors=(), data=b"", version=3, alignment=32, magic=b"GGUF"):
    head = magic + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return head + b"\0" * (-len(head) % alignment) + data


def gguf_seeds():
    yield "empty", gguf()
    yield "version2", gguf(version=2)
    yield "version1", gguf(version=1)
    yield "big_endian", gguf(version=0x03000000)
    yield "scalars", gguf([key(f"k{k}", k, "text" if k == STR else 1) for k in range(13) if k != ARRAY])
    yield "arrays", gguf([array(f"a{k}", k, ["x", "yz"] if k == STR else [0, 1])
                          for k in range(13) if k != ARRAY])
    yield "nested", gguf([text("n") + struct.pack("<IIQIQ", ARRAY, ARRAY, 1, U8, 0)])
    yield "tensors", gguf([], [tensor("a", [8], 0, 0), tensor("b", [32, 2], 2, 32),
                               tensor("c", [3, 0], 1, 96), tensor("d", [], 24, 96)], b"d" * 97)
    yield "overlap", gguf([], [tensor("a", [16], 0, 0), tensor("b", [8], 0, 32)], b"d" * 64)
    yield "aligned", gguf([key("general.alignment", U32, 64)], [tensor("a", [4], 0, 64)], b"d" * 80, alignment=64)
    yield "wrong_alignment", gguf([key("general.alignment", U64, 64)])
    yield "duplicate", gguf([key("k", U8, 1), key("k", U8, 2)])
    yield "overflow", gguf([], [tensor("a", [2**32, 2**32], 0, 0)], b"d" * 32)
    yield "huge_count", b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63)
    yield "huge_string", gguf([text("s") + struct.pack("<IQ", STR, 2**64 - 1)])
    yield "kquants", gguf([], [tensor("a", [256], 12, 0), tensor("b", [256], 14, 160)], b"d" * 370)


def safetensors(header, data=b"", pad=0):
    raw = (header if isinstance(header, str) else json.dumps(header)).encode() + b" " * pad
    return struct.pack("<Q", len(raw)) + raw + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_seeds():
    yield "empty", safetensors("{}")
    yield "padded", safetensors("{}", pad=6)
    yield "one", safetensors({"a": entry("F32", [2], 0, 8)}, b"d" * 8)
    yield "types", safetensors({t: entry(t, [1], i * 8, i * 8 + 8 // d) for i, (t, d) in
                                enumerate([("F64", 1), ("I64", 1)])}, b"d" * 16)
    yield "metadata", safetensors({"__metadata__": {"format": "pt"}, "b": entry("U8", [3], 4, 7),
                                   "a": entry("BF16", [1, 2], 0, 4)}, b"d" * 7)
    yield "zero", safetensors({"a": entry("F16", [0, 3], 0, 0)})
    yield "gap", safetensors({"a": entry("I8", [2], 0, 2), "b": entry("I8", [2], 3, 5)}, b"d" * 5)
    yield "overlap", safetensors({"a": entry("I8", [2], 0, 2), "b": entry("I8", [2], 1, 3)}, b"d" * 3)
    yield "duplicate", safetensors('{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},'
                                   '"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}', b"d")
    yield "float", safetensors('{"a":{"dtype":"I8","shape":[1.0],"data_offsets":[0,1e0]}}', b"d")
    yield "deep", safetensors('{"a":[[[[1]]]]}')
    yield "long", struct.pack("<Q", 2**40) + b"{}"


def json_seeds():
    yield "config", b'{"model_type": "llama", "rope_theta": 1e4, "n": -1, "tie": true, "x": null}'
    yield "escapes", rb'"\u00e9\ud83d\ude00\n\t\"\\\/\b\f\r\u0000\u007f"'
    yield "utf8", '["é", "漢", "😀"]'.encode()
    yield "numbers", b"[0, -0, 1, -1, 9223372036854775807, -9223372036854775808, 18446744073709551615, " \
                     b"1e308, 4.9e-324, 0.1, 123456789012345678901234567890]"
    yield "nested", b"[" * 60 + b"]" * 60
    yield "too_deep", b"[" * 70 + b"]" * 70
    yield "duplicate", b'{"a": 1, "b": {"c": 1, "c": 2}}'
    yield "index", b'{"metadata": {"total_size": 8}, "weight_map": {"a": "m-00001-of-00002.safetensors"}}'
    yield "tokenizer", b'{"model": {"type": "BPE", "vocab": {"a": 0, "ab": 1}, "merges": ["a b"]}}'
    yield "cut", b'{"a": ['
    yield "bad_utf8", b'"\xff"'
    yield "bom", b'\xef\xbb\xbf{}'


def index_seeds():
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"

    def index(shards):
        return json.dumps({"metadata": {"total_size": 7}, "weight_map": shards}).encode()
    yield "good", index({"a": one, "b": two})
    yield "swapped", index({"a": two, "b": one})
    yield "one_shard", index({"a": one})
    yield "extra", index({"a": one, "b": two, "c": two})
    yield "absent", index({"a": one, "b": "model-00003-of-00002.safetensors"})
    yield "outside", index({"a": "../a.safetensors"})
    yield "itself", index({"a": "model.safetensors.index.json"})
    yield "no_text", index({"a": 1})
    yield "empty", index({})
    yield "list", b'{"weight_map": []}'


def npy(dictionary, data=b"", version=1):
    raw = dictionary.encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(raw)) + raw + data


def npy_seeds():
    def dictionary(descr="<f4", order="False", shape="(2, 3)"):
        return f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n"
    yield "good", npy(dictionary(), b"d" * 24)
    yield "version2", npy(dictionary(), b"d" * 24, version=2)
    yield "version3", npy(dictionary(), b"d" * 24, version=3)
    yield "half", npy(dictionary("<f2"), b"d" * 12)
    yield "double", npy(dictionary("<f8"), b"d" * 48)
    yield "fortran", npy(dictionary(order="True"), b"d" * 24)
    yield "vector", npy(dictionary(shape="(6,)"), b"d" * 24)
    yield "empty", npy(dictionary(shape="(0, 3)"))
    yield "huge", npy(dictionary(shape="(9223372036854775807, 9223372036854775807)"), b"d" * 24)
    yield "quoted", npy('{"shape":(2,3),"fortran_order":False,"descr":"<f4"}', b"d" * 24)
    yield "twice", npy("{'descr': '<f4', 'descr': '<f4'}")
    yield "unclosed", npy("{'descr': '<f4")
    yield "long", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1)
    yield "short", b"\x93NUMPY\x01"


def importance_seeds():
    nan, infinity = float("nan"), float("inf")
    keys = [key("general.type", STR, "imatrix"), array("imatrix.datasets", STR, ["dir/a.txt", "b.txt"]),
            key("imatrix.chunk_count", U32, 3), key("imatrix.chunk_size", U32, 512)]

    def floats(values):
        raw = struct.pack(f"<{len(values)}f", *values)
        return raw + b"\0" * (-len(raw) % 32)

    def matrix(entries, keys=keys, kind=0):
        tensors, data = [], b""
        for name, dims, values in entries:
            tensors.append(tensor(name, dims, kind, len(data)))
            data += floats(values)
        return gguf(keys, tensors, data)

    sums, counts = ("w.in_sum2", [4, 1], [1, 2, 3, 4]), ("w.counts", [1, 1], [8])
    yield "plain", matrix([sums, counts])
    yield "experts", matrix([("e.in_sum2", [2, 2], [1, 2, 0, 0]), ("e.counts", [1, 2], [5, 0]),
                             ("w.in_sum", [4], [1, 1, 1, 1])])
    yield "not_finite", matrix([("w.in_sum2", [4, 1], [nan, infinity, -1, 0]), counts])
    yield "bad_count", matrix([sums, ("w.counts", [1, 1], [-8])])
    yield "nan_count", matrix([sums, ("w.counts", [1, 1], [nan])])
    yield "ragged", matrix([sums, ("w.counts", [1, 3], [8, 8, 8])])
    yield "no_sums", matrix([("w.in_sum2", [0, 1], []), counts])
    yield "half_a_pair", matrix([sums])
    yield "other_type", matrix([("w.in_sum2", [8, 1], [1, 2, 3, 4]), ("w.counts", [2, 1], [8])], kind=1)
    yield "model", matrix([sums, counts], keys=[key("general.type", STR, "model")])
    yield "no_entries", matrix([])
    yield "negative_chunks", matrix([sums, counts], keys=keys[:2] + [key("imatrix.chunk_count", I32, -1), keys[3]])

    def entry(name, calls, values, count=None):
        raw = name.encode()
        return (struct.pack("<i", len(raw)) + raw + struct.pack("<ii", calls, len(values) if count is None else count)
                + struct.pack(f"<{len(values)}f", *values))

    def dat(entries, tail=b"", count=None):
        return struct.pack("<i", len(entries) if count is None else count) + b"".join(entries) + tail

    tail = struct.pack("<ii", 3, 5) + b"a.txt"
    yield "dat", dat([entry("v", 2, [1, 2]), entry("w", 2, [0.5, nan, 3])], tail)
    yield "dat_no_tail", dat([entry("v", 0, [1, 2])])
    yield "dat_cut_tail", dat([entry("v", 1, [1, 2])], tail[:4])
    yield "dat_long_tail", dat([entry("v", 1, [1, 2])], tail + b"x")
    yield "dat_twice", dat([entry("v", 1, [1]), entry("v", 1, [1])])
    yield "dat_count", dat([entry("v", 1, [1])], count=2**31 - 1)
    yield "dat_values", dat([entry("v", 1, [1], count=2**31 - 1)])
    yield "dat_negative", dat([entry("v", -1, [1])])
    yield "dat_no_name", dat([entry("", 1, [1])])
    yield "dat_long_name", struct.pack("<iI", 1, 0xFFFFFFFF) + b"w" * 20


if __name__ == "__main__":
    for target, seeds in (("gguf", gguf_seeds()), ("safetensors", safetensors_seeds()), ("json", json_seeds()),
                          ("index", index_seeds()), ("importance", importance_seeds()),
                          ("npy", npy_seeds())):
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for name, data in seeds:
            (CORPUS / target / name).write_bytes(data)
