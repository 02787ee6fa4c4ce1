#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/fuzz/corpus/planes: one matrix for each format of planes.cpp, of zeros, of ones and of counted bytes,
jlcm's with books that ascend, one row's book outside the table and one book that descends, and sparse's with masks of
as many weights as there are slots and of one more.

    tests/fuzz/make_corpus_planes.py
"""
import pathlib
import struct

OUTPUT = pathlib.Path(__file__).resolve().parent / "corpus/planes"
SPECS = 14


def jlcm(books: list, values: list) -> bytes:
    """jlcm:bits=3,together=1,rows=2 of [4, 32]: two books of eight."""
    codes = bytes(range(4 * 12))
    scales = struct.pack("<4e", 1, 2, 3, 4)
    return bytes([10, 3, 0]) + codes + scales + struct.pack("<4H", *books) + struct.pack("16b", *values)


def sparse(last: int) -> bytes:
    """sparse:slots=20 of [4, 32]: rows of 20 weights, and a last one of 20 with this byte for its last eight."""
    mask = b"\xff\xff\x0f\x00" * 3 + bytes([0xff, 0xff, 0x0f, last])
    return bytes([11, 3, 0]) + mask + struct.pack("<80H", *range(0x3f00, 0x3f50))


def main() -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for spec in range(SPECS):
        head = bytes([spec, 2, 1])
        for name, body in {"zeros": b"", "ones": b"\xff" * 64, "counted": bytes(range(0, 120, 2))}.items():
            (OUTPUT / f"{spec:02}-{name}").write_bytes(head + body)
    ascending = list(range(-64, 64, 8))
    (OUTPUT / "jlcm").write_bytes(jlcm([0, 1, 1, 0], ascending))
    (OUTPUT / "jlcm-outside").write_bytes(jlcm([0, 1, 2, 0], ascending))
    (OUTPUT / "sparse").write_bytes(sparse(0))
    (OUTPUT / "sparse-full").write_bytes(sparse(1))
    (OUTPUT / "jlcm-descends").write_bytes(jlcm([0, 1, 1, 0], ascending[::-1]))


if __name__ == "__main__":
    main()
