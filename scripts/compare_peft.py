#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The same LoRA run by offload-train and by PyTorch + PEFT: losses step by step, tokens/s, peak memory.

    scripts/compare_peft.py --tool build/bin/offload-train --model DIR --data lines.jsonl [--steps 50] [--precision f32]
        [--nf4 FILE]

DIR is a Hugging Face directory; lines.jsonl holds {"text": ...} lines, one row of a step each. Both begin with the same
matrices, take the lines in order and use AdamW (0.9, 0.999, 1e-8, no decay, norm clipped at 1) with a constant rate.
PyTorch runs eagerly in a process of its own, in float32 or (bf16) with bfloat16 weights and float32 adapters under
autocast, on as many threads. With --nf4 (QLoRA) both keep the base in 4 bits: offload-train reads FILE, made by
`quantize --format nf4` from DIR, PyTorch quantises DIR with bitsandbytes as it loads it. Needs torch, transformers and
peft. For measurements only.
"""
import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

RATE = 2e-4


def offload_train(args, output, *more):
    command = [args.tool, "-m", args.nf4 or args.model, "--data", args.data, "-o", output, "-c", str(args.context), "--pack", "none",
               "--shuffle=false", "-b", str(args.batch), "--method", f"lora:rank={args.rank},alpha={2 * args.rank}",
               "--lr-scheduler", "constant", "--precision", args.precision, "--threads", str(args.threads), "--metrics", "-",
               "--force", "-q", *more]
    start = time.time()
    lines = subprocess.run(["/usr/bin/time", "-f", "%M", "-o", output + ".rss", *command], check=True, capture_output=True,
                           text=True).stdout.splitlines()
    steps = [json.loads(line) for line in lines if line.startswith("{")]
    return {"losses": [s["loss"] for s in steps], "tokens": sum(s["tokens"] for s in steps),
            "seconds": sum(s["seconds"] for s in steps), "wall": time.time() - start,
            "rss": int(pathlib.Path(output + ".rss").read_text().split()[-1]) / 1024}


def pytorch(args):
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    torch.set_num_threads(args.threads)
    half = args.precision == "bf16"
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    dtype = torch.bfloat16 if half else torch.float32
    more = {}
    if args.nf4:
        more["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                                         bnb_4bit_compute_dtype=dtype)
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, **more)
    model = peft.PeftModel.from_pretrained(base, args.initial, is_trainable=True)
    if args.checkpointing:
        model.enable_input_require_grads()
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        base.config.use_cache = False
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)
    texts = [json.loads(line)["text"] for line in open(args.data, encoding="utf-8")]
    rows = [tokenizer(t, add_special_tokens=False)["input_ids"][: args.context - 1] + [tokenizer.eos_token_id] for t in texts]
    losses, tokens, seconds = [], 0, 0.0
    for step in range(args.steps):
        batch = [rows[(step * args.batch + i) % len(rows)] for i in range(args.batch)]
        start = time.time()
        width = max(map(len, batch))
        ids = torch.tensor([r + [tokenizer.eos_token_id] * (width - len(r)) for r in batch])
        mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in batch])
        labels = ids.masked_fill(mask == 0, -100)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        tokens += sum(map(len, batch))
        seconds += time.time() - start
    print(json.dumps({"losses": losses, "tokens": tokens, "seconds": seconds,
                      "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                      "versions": [torch.__version__, peft.__version__]}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", default="build/bin/offload-train")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--checkpointing", action="store_true", help="PyTorch computes layers twice, as offload-train does")
    parser.add_argument("--nf4", metavar="FILE", help="the base in nf4, for offload-train")
    parser.add_argument("--more", nargs="*", default=[], help="more arguments for offload-train")
    parser.add_argument("--initial", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.initial:
        return pytorch(args)
    with tempfile.TemporaryDirectory() as directory:
        initial = os.path.join(directory, "initial")
        offload_train(args, initial, "--steps", "1", "--lr", "0", *args.more)
        ours = offload_train(args, os.path.join(directory, "trained"), "--steps", str(args.steps), "--lr", str(RATE), *args.more)
        child = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--initial", initial], check=True, capture_output=True, text=True)
        theirs = json.loads(child.stdout.splitlines()[-1])
    worst = max(abs(a - b) / b for a, b in zip(ours["losses"], theirs["losses"]))
    print(f"torch {theirs['versions'][0]}, peft {theirs['versions'][1]}, {args.precision}, {args.steps} steps, {args.threads} threads")
    for name, run in (("offload-train", ours), ("PyTorch + PEFT", theirs)):
        print(f"{name:16} {run['tokens'] / run['seconds']:8.1f} tokens/s  {run['rss']:8.0f} MiB  loss {run['losses'][0]:.5f} -> "
              f"{sum(run['losses'][-5:]) / 5:.5f} (last five)")
    print(f"losses differ by at most {worst:.2e} of their size; tokens {ours['tokens']} and {theirs['tokens']}")


if __name__ == "__main__":
    main()
