#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What KV policies keep of a prompt, beside kvpress on the same model, text and budget.

    scripts/compare_kvpress.py --tool build/bin/run --model DIR --text FILE [--characters 5000] [--after 64] [--threads 2]

DIR is a Hugging Face directory. The prompt is read by `run -n 0 --kv-dump`, with keys and values in F32 and activations
in f32; PyTorch reads the same tokens in float32 with eager attention, kvpress choosing what stays. Of each layer and
head the share of kvpress' tokens that run keeps, too. Then the next tokens of the text are predicted three times in
PyTorch from one dense prefill: with every key, with kvpress' and with run's; the mean KL divergences are shown.
ThinK keeps all tokens: there the answers are compared, token by token, greedily.

The same terms on both sides: keys stay at their own positions; the budget is floor(share * tokens) and holds the window
or the first tokens; heads of a group share one set by their mean (kvpress does so, too: its caches have K/V heads).
Layers with a sliding window are left out, and then nothing is predicted: PyTorch's caches have one length for all layers.
kvpress never drops while answering. Its StreamingLLM drops after a dense prefill, ours masks while reading.
Needs torch, transformers and kvpress. For measurements only.
"""
import argparse
import importlib.metadata
import json
import pathlib
import subprocess
import tempfile

import kvpress
import torch
from kvpress.utils import compute_n_kept
from transformers import AutoModelForCausalLM, DynamicCache

METHODS = [
    ("SnapKV", lambda r: kvpress.SnapKVPress(r, window_size=64, kernel_size=5), "snapkv:window=64,kernel=5,budget={}%"),
    ("SnapKV, window 32", lambda r: kvpress.SnapKVPress(r, window_size=32, kernel_size=7), "snapkv:kernel=7,budget={}%"),
    ("ObservedAttention", lambda r: kvpress.ObservedAttentionPress(r), "h2o:normalise=true,recent=0,budget={}%"),
    ("ExpectedAttention", lambda r: kvpress.ExpectedAttentionPress(r), "expected:budget={}%"),
    ("TOVA", lambda r: kvpress.TOVAPress(r), "tova:budget={}%"),
    ("StreamingLLM", lambda r: kvpress.StreamingLLMPress(r), None),
]


def run(args, policy, folder, *more):
    dump = folder / "dump.json"
    command = [args.tool, "-m", args.model, "-f", str(folder / "prompt.txt"), "--kv-policy", policy, "-ctk", "f32", "-ctv", "f32",
               "--activations", "f32", "--threads", str(args.threads), "--kv-dump", str(dump), "-q", *more]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(dump.read_text())


def prefill(model, ids, press=None):
    """The cache after the prompt, and the scores that kvpress gave, by layer."""
    cache, scores = DynamicCache(), {}
    if press is None:
        model(ids, past_key_values=cache, logits_to_keep=1)
        return cache, scores
    if hasattr(press, "score"):
        plain = press.score

        def score(module, *rest, **named):
            scores[module.layer_idx] = plain(module, *rest, **named)
            return scores[module.layer_idx]
        press.score = score
    with press(model):
        model(ids, past_key_values=cache, logits_to_keep=1)
    return cache, scores


def predict(model, dense, kept, ids, after):
    """Log probabilities of the tokens after the prompt with only `kept` [layer][head] in the cache (None: all)."""
    cache = DynamicCache()
    for layer, held in enumerate(dense.layers):
        k, v = held.keys, held.values
        if kept is not None:
            at = torch.tensor(kept[layer])[None, :, :, None].expand(-1, -1, -1, k.shape[-1])
            k, v = k.gather(2, at), v.gather(2, at)
        cache.update(k.clone(), v.clone(), layer)
    first = ids.shape[1]
    positions = torch.arange(first, first + after.shape[1])[None]
    logits = model(after, past_key_values=cache, position_ids=positions).logits[0]
    return torch.log_softmax(logits.double(), -1)


def divergence(p, q):
    return float((p.exp() * (p - q)).sum(-1).mean())


def governed(model):
    """Layers that policies act on."""
    kinds = getattr(model.config, "layer_types", None) or ["full_attention"] * model.config.num_hidden_layers
    return [layer for layer, kind in enumerate(kinds) if kind == "full_attention"]


def compare(args, model, folder, ids, after, dense, name, press, policy, percent):
    count = compute_n_kept(ids.shape[1], 1 - percent / 100)
    text = policy.format(percent) if policy else f"streaming:sink=4,positions=original,budget={count}"
    ours = run(args, text, folder, "-n", "0")["positions"]
    try:
        _, scores = prefill(model, ids, press(1 - percent / 100))
    except AttributeError as error:
        print(f"| {name} | {percent} % | kvpress fails: {error} |", flush=True)
        return {"method": name, "percent": percent, "error": str(error)}
    layers = governed(model)
    ours = [ours[layer] for layer in layers]
    theirs = [scores[layer][0].topk(count, dim=-1).indices.sort(-1).values.tolist() for layer in layers]
    shares = []
    for mine, other in zip(ours, theirs):
        assert all(len(head) == count for head in mine), "another budget"
        shares.append(sum(len(set(a) & set(b)) for a, b in zip(mine, other)) / sum(len(b) for b in other))
    row = f"| {name} | {percent} % | {100 * sum(shares) / len(shares):.3f} % | {100 * min(shares):.2f} % (layer {layers[shares.index(min(shares))]}) |"
    if len(layers) < model.config.num_hidden_layers:
        print(row, flush=True)
        return {"method": name, "policy": text, "percent": percent, "same_by_layer": shares}
    full, their, our = (predict(model, dense, kept, ids, after) for kept in (None, theirs, ours))
    print(f"{row} {divergence(their, our):.2e} | {divergence(full, their):.4f} | {divergence(full, our):.4f} |", flush=True)
    return {"method": name, "policy": text, "percent": percent, "same_by_layer": shares, "kld": divergence(their, our),
            "kld_full_kvpress": divergence(full, their), "kld_full_run": divergence(full, our)}


def greedy(model, cache, ids, first, count):
    """What follows `first`, the token that the prompt's last row chose."""
    out = [first]
    while len(out) < count:
        at = torch.tensor([[ids.shape[1] + len(out) - 1]])
        logits = model(torch.tensor([[out[-1]]]), past_key_values=cache, position_ids=at).logits
        out.append(int(logits[0, -1].argmax()))
    return out


def compare_think(args, model, folder, ids, percent, count=32):
    """All tokens stay; answers are compared. Keys of the window are narrowed, too, as kvpress does."""
    policy = f"think:ratio={1 - percent / 100},window=32,recent=0"
    held = run(args, policy, folder, "-n", str(count), "--temp", "0", "--ignore-eos")["tokens"][ids.shape[1]:]
    first = int(model(ids, logits_to_keep=1).logits[0, -1].argmax())
    answers = {}
    for name, press in (("kvpress", kvpress.ThinKPress(1 - percent / 100)), ("dense", None)):
        cache, _ = prefill(model, ids, press)
        answers[name] = greedy(model, cache, ids, first, count)[:len(held)]
    same = {name: next((i for i, (a, b) in enumerate(zip(held, answer)) if a != b), len(held)) for name, answer in answers.items()}
    print(f"ThinK, {percent} % of the channels: run's answer begins as kvpress' for {same['kvpress']} of {len(held)} tokens, "
          f"as the dense one for {same['dense']}", flush=True)
    return {"method": "ThinK", "policy": policy, "percent": percent, "tokens": len(held), **same}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tool", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--characters", type=int, default=5000)
    parser.add_argument("--after", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        text = pathlib.Path(args.text).read_text()
        (folder / "prompt.txt").write_text(text[:args.characters + 8 * args.after])
        tokens = run(args, "full", folder, "-n", "0")["tokens"]
        (folder / "prompt.txt").write_text(text[:args.characters])
        ids = run(args, "full", folder, "-n", "0")["tokens"]
        assert tokens[:len(ids)] == ids, "the text is cut within a token: other --characters"
        after = torch.tensor([tokens[len(ids):len(ids) + args.after]])
        ids = torch.tensor([ids])
        dense, _ = prefill(model, ids)
        print(f"{ids.shape[1]} tokens, {after.shape[1]} predicted, kvpress {importlib.metadata.version('kvpress')}\n")
        print("| method | kept | same tokens | least layer | KLD kvpress, run | full, kvpress | full, run |\n| --- | --- | --- | --- | --- | --- | --- |")
        for percent in (50, 25):
            for method in METHODS:
                results.append(compare(args, model, folder, ids, after, dense, *method, percent))
        print()
        for percent in (75, 50) if len(governed(model)) == model.config.num_hidden_layers else ():
            results.append(compare_think(args, model, folder, ids, percent))
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
