#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seeds of tests/fuzz/corpus/import from the checkpoints of tests/golden/import."""
import json
import pathlib

TESTS = pathlib.Path(__file__).resolve().parent.parent


def main():
    out = TESTS / "fuzz" / "corpus" / "import"
    out.mkdir(parents=True, exist_ok=True)
    for name in ("gptq-2bit", "gptq-4bit-act-order", "awq", "bnb-nf4-nested", "ct-int4", "mxfp4"):
        directory = TESTS / "golden" / "import" / name
        config = json.dumps(json.loads((directory / "config.json").read_text()))
        (out / name).write_bytes(config.encode() + b"\n" + (directory / "model.safetensors").read_bytes())


if __name__ == "__main__":
    main()
