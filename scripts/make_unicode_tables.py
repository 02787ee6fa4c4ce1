#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes lib/text/unicode_tables.inc: the ranges of letters and numbers that pre-tokenization tells
apart. They are read off the `tokenizers` library itself, code point by code point, because its
Unicode version is what published token ids depend on. Development only.

usage: make_unicode_tables.py > lib/text/unicode_tables.inc
"""
import tokenizers
from tokenizers import Regex, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def letters():
    text = "".join(map(chr, CODE_POINTS))
    runs = pre_tokenizers.Split(Regex(r"\p{L}+"), "removed", invert=True).pre_tokenize_str(text)
    return {ord(c) for run, _ in runs for c in run}


def numbers():
    digits = pre_tokenizers.Digits(individual_digits=True)
    text = "".join("a" + chr(c) for c in CODE_POINTS) + "a"
    isolated = {piece for piece, _ in digits.pre_tokenize_str(text) if len(piece) == 1}
    return {ord(c) for c in isolated if c != "a"}


def ranges(code_points):
    out = []
    for c in sorted(code_points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def main():
    classes = [("kLetter", letters()), ("kNumber", numbers())]
    assert not classes[0][1] & classes[1][1]
    rows = sorted((a, b, name) for name, points in classes for a, b in ranges(points))
    print("// SPDX-License-Identifier: Apache-2.0")
    print(f"// Made by scripts/make_unicode_tables.py with tokenizers {tokenizers.__version__}.")
    line = ""
    for first, last, name in rows:
        item = f"{{0x{first:x}, 0x{last:x}, CharClass::{name}}},"
        if len(line) + len(item) + 1 > 100:
            print(line)
            line = item
        else:
            line = f"{line} {item}" if line else item
    print(line)


main()
