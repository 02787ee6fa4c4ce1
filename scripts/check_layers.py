#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Fails when a source file includes something its folder may not see. Run as a test."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUFFIXES = (".h", ".cpp", ".cu", ".cuh", ".def")

# Folder of lib/ -> what it may include besides itself, core and tensor. Of a folder within a folder that
# stands here the files are no leaves.
LIB = {
    "core": "kernels/layout",
    "tensor": "kernels/cuda/failure.h kernels/cuda/memory.h kernels/cuda/stream.h kernels/layout",
    "codec": "",
    "dist": "",
    "io": "codec",
    "text": "io",
    "storage": "io",
    "format": "io codec kernels/layout kernels/ref kernels/encode",
    "ops": "format kernels/layout kernels/ref kernels/encode kernels/cpu kernels/cuda",
    "kv": "ops format storage io codec dist",
    "model": "kv ops format storage io",
    "cost": "model kv ops format storage io",
    "calib": "model kv ops format text io storage cost",
    "decode": "model kv ops storage text io cost",
    "eval": "decode calib model kv ops format cost text io",
    "quant": "eval calib decode model ops format storage codec text io cost",
    "train": "train/data eval calib model kv ops format storage dist text io cost",
    "train/data": "text io",
    "recipe": "io cli",
    "cli": "io",
}
LIB["prune"] = LIB["compress"] = LIB["quant"]
# Any folder may see what the ISA enum, the RNG and the layouts say: plain data.
EVERYWHERE = ["kernels/layout"]
# Third-party headers -> the only places that may include them.
FOREIGN = {
    r"CLI/": ["lib/cli"],
    r"yaml-cpp/": ["lib/cli", "lib/recipe"],
    r"nlohmann/": ["lib/io"],
    r"doctest/": ["tests"],
    r"benchmark/": ["tests/bench"],
    r"(dnnl|oneapi/)": ["kernels/cpu"],
    r"(cuda|cublas)": ["kernels/cuda", "kernels/emu", "kernels/layout/half.h"],
    r"Eigen/": ["lib/calib"],
    r"liburing": ["lib/storage"],
    r"mpi\.h": ["lib/dist"],
    r"immintrin": ["kernels/cpu", "kernels/encode", "lib/core/team.cpp"],
}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def folder_of(file: pathlib.PurePosixPath) -> str:
    """Of a file in lib/, as the table has it."""
    inner = "/".join(file.parts[1:3])
    return inner if inner in LIB else file.parts[1]


def is_leaf(file: pathlib.PurePosixPath) -> bool:
    return len(file.parts) > 2 + len(folder_of(file).split("/"))  # lib/kv/policies/x.cpp


def may_include(file: pathlib.PurePosixPath, target: pathlib.PurePosixPath) -> bool:
    """Both are project files, relative to the root."""
    top, folder = file.parts[0], folder_of(file)
    if top == "tests":
        return True
    inside = lambda places: any(target == pathlib.PurePosixPath(p) or str(target).startswith(p + "/") for p in places)
    own = f"{top}/{folder}"
    if top == "tools":
        return target.parts[0] in ("lib", "kernels") or inside([own])
    if top == "kernels":
        return inside({"ref": [own], "cpu": [own, "kernels/layout", "kernels/encode"], "emu": [own, "kernels/layout", "kernels/cuda"], "cuda": [own, "kernels/layout", "kernels/emu"]}.get(folder, [own, "kernels/layout"]))
    leaf_target = target.parts[0] == "lib" and is_leaf(target)
    if target.parts[0] == "lib" and folder_of(target) == folder:
        return not leaf_target or (is_leaf(file) and target.stem == file.stem) or target.suffix == ".def"
    places = [p if p.startswith("kernels/") else f"lib/{p}" for p in ("core tensor " + LIB[folder]).split()]
    if folder == "core":
        places.remove("lib/tensor")
    return not leaf_target and inside(places + EVERYWHERE)


def faults_of(path: pathlib.Path):
    file = pathlib.PurePosixPath(path.relative_to(ROOT).as_posix())
    if file.parts[0] == "lib" and file.parts[1] not in LIB:
        yield f"{file}: lib/{file.parts[1]} is not in the table of scripts/check_layers.py"
        return
    for bracket, name in INCLUDE.findall(path.read_text(encoding="utf-8")):
        target = next((base + name for base in ("", "lib/") if (ROOT / (base + name)).is_file()), None)
        if target is None and (path.parent / name).is_file():
            target = (path.parent / name).resolve().relative_to(ROOT).as_posix()
        if bracket == '"' and target is not None:
            if not may_include(file, pathlib.PurePosixPath(target)):
                yield f"{file}: may not include {target}"
            continue
        for pattern, places in FOREIGN.items():
            if re.match(pattern, name) and not any(str(file).startswith(p) for p in places):
                yield f"{file}: <{name}> belongs to {', '.join(places)} only"


def main() -> int:
    files = [p for top in ("lib", "kernels", "tools", "tests") for p in sorted((ROOT / top).rglob("*")) if p.suffix in SUFFIXES]
    faults = [fault for path in files for fault in faults_of(path)]
    print("\n".join(faults) or f"layers hold in {len(files)} files")
    return 1 if faults or not files else 0


if __name__ == "__main__":
    sys.exit(main())
