#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fails when an object file compiled for one instruction set defines a symbol that the linker could merge with
another file's (weak, unique or common), or a global one outside that instruction set's namespace: code for AVX
would then run on machines without it.

usage: check_isa_symbols.py ISA OBJECT...
"""
import subprocess
import sys


def faults(isa: str, path: str):
    listing = subprocess.run(["nm", "--defined-only", "--portability", path], capture_output=True, check=True, text=True)
    inside = f"N7thimble3cpu{len(isa)}{isa}"
    for line in listing.stdout.splitlines():
        name, kind = line.split()[:2]
        if kind in "WVuC":
            yield f"{path}: '{name}' can be merged with another file's (nm: {kind})"
        elif kind.isupper() and inside not in name:
            yield f"{path}: '{name}' is global and not in thimble::cpu::{isa}"


def main() -> int:
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    isa, objects = sys.argv[1], sys.argv[2:]
    found = [fault for path in objects for fault in faults(isa, path)]
    print("\n".join(found) or f"{len(objects)} {isa} objects keep to themselves")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
