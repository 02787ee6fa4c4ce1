#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fails when a leaf file and its line in the folder's .def list do not match. Run as a test.

lib/<folder>/<leaves>.def lists the files of lib/<folder>/<leaves>/; kernels/layout/layouts.def lists headers.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROW = re.compile(r"^\s*THIMBLE_\w+\(\s*(\w+)", re.M)
# Leaf folders that are plain seams, chosen in code by their one caller, and lib/train/data, whose files are
# no leaves: no list.
UNLISTED = {"blocks", "stores", "data"}


def rows(path: pathlib.Path) -> list[str]:
    return ROW.findall(path.read_text(encoding="utf-8"))


def compare(what: str, listed: list[str], present: set[str]):
    for name in sorted({n for n in listed if listed.count(n) > 1}):
        yield f"{what}: '{name}' is listed twice"
    for name in sorted(set(listed) - present):
        yield f"{what}: '{name}' is listed but has no file"
    for name in sorted(present - set(listed)):
        yield f"{what}: '{name}' has a file but no line"


def main() -> int:
    faults, lists = [], 0
    for folder in sorted(p for p in (ROOT / "lib").glob("*/*") if p.is_dir() and p.name not in UNLISTED):
        definition = folder.with_suffix(".def")
        present = {p.stem for p in folder.glob("*.cpp")}
        if not definition.is_file():
            faults.append(f"{folder.relative_to(ROOT)}: no {definition.name} beside it")
            continue
        lists += 1
        faults += compare(str(definition.relative_to(ROOT)), rows(definition), present)
    layouts = ROOT / "kernels/layout/layouts.def"
    headers = {p.stem for p in (ROOT / "kernels/layout").glob("*.h") if f"LayoutId::k_{p.stem}>" in p.read_text()}
    faults += compare("kernels/layout/layouts.def", rows(layouts), headers)
    print("\n".join(faults) or f"{lists} lists match their files")
    return 1 if faults or lists == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
