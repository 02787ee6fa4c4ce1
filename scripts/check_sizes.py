#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fails on source files and functions that have grown too long to review, and on large tracked files."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILE_LIMIT, FUNCTION_LIMIT, KERNEL_LIMIT, MAIN_LIMIT, BYTES_LIMIT = 600, 100, 150, 150, 1 << 20
FILE_REVIEW, FUNCTION_REVIEW = 400, 60
NOT_A_FUNCTION = re.compile(r"\s*(namespace|struct|class|enum|union|extern|(static |inline )?constexpr|const |#|//|TEST_CASE)")


def long_blocks(lines: list[str]):
    """Yields (first line, length) of the blocks at namespace or class level that look like functions."""
    for indent in ("", "    "):
        start = None
        for number, line in enumerate(lines, 1):
            if start is None:
                at_level = line.startswith(indent) and line[len(indent):len(indent) + 1] not in ("", " ", "}")
                if at_level and not NOT_A_FUNCTION.match(line) and line.rstrip().endswith(") {"):
                    start = number
            elif line.rstrip() == indent + "}":
                yield start, number - start + 1
                start = None


def main() -> int:
    faults, review = [], []
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listing.split("\0")):
        path = ROOT / name
        if not path.is_file():
            continue
        if path.stat().st_size > BYTES_LIMIT:
            faults.append(f"{name}: {path.stat().st_size} bytes, limit {BYTES_LIMIT}")
        if path.suffix not in (".h", ".cpp", ".cu", ".cuh", ".py", ".sh"):
            continue
        lines = path.read_text(encoding="utf-8").split("\n")
        limit = MAIN_LIMIT if re.fullmatch(r"tools/[^/]+/main\.cpp", name) else FILE_LIMIT
        if len(lines) > limit:
            faults.append(f"{name}: {len(lines)} lines, limit {limit}")
        elif len(lines) > FILE_REVIEW:
            review.append(f"{name}: {len(lines)} lines")
        if path.suffix in (".py", ".sh") or name.startswith("tests/"):
            continue
        limit = KERNEL_LIMIT if name.startswith("kernels/") else FUNCTION_LIMIT
        for line, length in long_blocks(lines):
            if length > limit:
                faults.append(f"{name}:{line}: a function of {length} lines, limit {limit}")
            elif length > FUNCTION_REVIEW:
                review.append(f"{name}:{line}: a function of {length} lines")
    if review:
        print("worth a review:\n  " + "\n  ".join(review))
    print("\n".join(faults) or "sizes hold")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
