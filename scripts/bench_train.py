#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One training job done in every way that offload-train has: memory, disk traffic, speed, validation loss, as a table.

    scripts/bench_train.py --tools build/bin --model FILE --data TEXT --validation TEXT [--steps 20] [--only NAME ...]

Each row is one run of the tool with the same batches; the peak is VmHWM, the prediction that of --dry-run. Rows on
quantised weights quantise the model first. For measurements only.
"""
import argparse
import json
import os
import pathlib
import subprocess
import tempfile

FULL = ["--method", "full", "--lr", "2e-5"]
LORA = ["--method", "lora:rank=16", "--lr", "2e-4"]
ROWS = [
    ("AdamW, everything kept", [*FULL, "--checkpoint-layers", "0"], None),
    ("+ dense loss", [*FULL, "--checkpoint-layers", "0", "--loss", "dense"], None),
    ("checkpoint per layer", FULL, None),
    ("+ dense loss", [*FULL, "--loss", "dense"], None),
    ("activations on disk", [*FULL, "--checkpoint-layers", "0", "--offload", "activations=disk"], None),
    ("optimizer on disk", [*FULL, "--offload", "optimizer=disk"], None),
    ("both on disk", [*FULL, "--checkpoint-layers", "0", "--offload", "optimizer=disk,activations=disk"], None),
    ("8-bit AdamW", [*FULL, "--optimizer", "adamw8bit"], None),
    ("LOMO", ["--method", "full", "--optimizer", "lomo", "--lr", "0.02"], None),
    ("LoRA 16", LORA, None),
    ("LoRA 16, dense loss", [*LORA, "--loss", "dense"], None),
    ("QLoRA 16, nf4", LORA, "nf4"),
]


def size(n: float) -> str:
    return f"{n / 2**20:.0f}" if n else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", default="build/bin")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--validation", required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args()
    print("| way | peak, MiB | predicted | disk read, written, MiB | tokens/s | validation loss |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for name, how, format_name in ROWS:
        if args.only and name not in args.only:
            continue
        with tempfile.TemporaryDirectory(dir=os.environ.get("THIMBLE_BENCH_DIR")) as directory:
            base = args.model
            if format_name:
                base = os.path.join(directory, "base.gguf")
                subprocess.run([f"{args.tools}/quantize", "-q", "-m", args.model, "--format", format_name, "--allow-requantize", "-o", base],
                               check=True, stdout=subprocess.DEVNULL)
            report = os.path.join(directory, "report.json")
            output = os.path.join(directory, "out.gguf" if "full" in how else "adapter")
            command = [f"{args.tools}/offload-train", "-q", "-m", base, "--data", args.data, "--validation", args.validation, "-o", output,
                       "-c", str(args.context), "-b", str(args.batch), "--steps", str(args.steps), "--lr-scheduler", "constant", "--json", report, *how]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"| {name} | {done.stderr.strip().splitlines()[-1]} |", flush=True)
                continue
            r = json.loads(pathlib.Path(report).read_text())
            disk = r.get("disk", {})
            predicted, measured = r["plan"]["tiers"]["ram"]["peak_bytes"], r["measured"]["peak_rss_bytes"]
            far = " (!)" if abs(predicted - measured) > max(0.1 * measured, 32 << 20) else ""
            print(f"| {name} | {size(measured)} | {size(predicted)}{far} | {size(disk.get('bytes_read', 0))}, {size(disk.get('bytes_written', 0))} | "
                  f"{r['tokens_per_second']:.0f} | {r['validations'][-1]['validation_loss']:.4f} |", flush=True)


if __name__ == "__main__":
    main()
