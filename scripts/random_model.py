#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes an F16 GGUF in the shape of a known model with random weights: for speed and memory, where quality is moot.

    scripts/random_model.py 1b /tmp/random-1b-f16.gguf        # Llama-3.2-1B's shape, 2.5 GB
    scripts/random_model.py 135m /tmp/random-135m-f16.gguf    # SmolLM2-135M's shape, 270 MB

Matrices are N(0, 0.02), norms are ones, embeddings are tied; the vocabulary is byte-level with filler up to its size,
so any text is tokens. Streams: a few MB of memory. The bytes depend on shape, seed and numpy's generator alone.
Needs numpy and gguf.
"""
import argparse
import pathlib

import gguf
import numpy

SHAPES = {
    "1b": dict(hidden=2048, ffn=8192, layers=16, heads=32, kv_heads=8, vocab=128256, context=131072, theta=500000.0),
    "135m": dict(hidden=576, ffn=1536, layers=30, heads=9, kv_heads=3, vocab=49152, context=8192, theta=100000.0),
}
CHUNK = 1 << 20  # weights drawn at a time
DEVIATION = numpy.float32(0.02)


def byte_letters() -> list[str]:
    """The printable letter that stands for each byte in byte-level vocabularies."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256))
    return [chr(b) if b in own else chr(256 + next(others)) for b in range(256)]


def tensors(shape: dict) -> list[tuple[str, tuple[int, ...]]]:
    hidden, ffn = shape["hidden"], shape["ffn"]
    keys = hidden // shape["heads"] * shape["kv_heads"]
    layer = {
        "attn_norm": (hidden,), "attn_q": (hidden, hidden), "attn_k": (keys, hidden), "attn_v": (keys, hidden),
        "attn_output": (hidden, hidden), "ffn_norm": (hidden,), "ffn_gate": (ffn, hidden), "ffn_up": (ffn, hidden),
        "ffn_down": (hidden, ffn),
    }
    names = [("token_embd.weight", (shape["vocab"], hidden)), ("output_norm.weight", (hidden,))]
    return names + [(f"blk.{i}.{name}.weight", s) for i in range(shape["layers"]) for name, s in layer.items()]


def write_metadata(writer: gguf.GGUFWriter, shape: dict, name: str) -> None:
    writer.add_name(f"random {name}")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(shape["context"])
    writer.add_embedding_length(shape["hidden"])
    writer.add_block_count(shape["layers"])
    writer.add_feed_forward_length(shape["ffn"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(shape["theta"])
    writer.add_rope_dimension_count(shape["hidden"] // shape["heads"])
    writer.add_vocab_size(shape["vocab"])
    letters = byte_letters()
    pieces = letters + ["th"] + [f"filler{i}" for i in range(shape["vocab"] - 258)] + ["<|end|>"]
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    writer.add_token_types([normal] * (len(pieces) - 1) + [control])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(len(pieces) - 1)
    writer.add_eos_token_id(len(pieces) - 1)
    writer.add_add_bos_token(False)


def write_tensor(writer: gguf.GGUFWriter, shape: tuple[int, ...], seed: list[int]) -> None:
    """Appends one tensor's data by chunks: what GGUFWriter.write_tensor_data does with a whole array."""
    out = writer.fout[0]
    writer.write_padding(out, out.tell())
    if len(shape) == 1:
        numpy.ones(shape, numpy.float32).tofile(out)
    else:
        generator = numpy.random.default_rng(seed)
        count = shape[0] * shape[1]
        for at in range(0, count, CHUNK):
            weights = generator.standard_normal(min(CHUNK, count - at), numpy.float32) * DEVIATION
            weights.astype(numpy.float16).tofile(out)
    writer.write_padding(out, out.tell())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    writer = gguf.GGUFWriter(arguments.output, "llama")
    write_metadata(writer, shape, arguments.shape)
    names = tensors(shape)
    for name, dims in names:
        kind = numpy.dtype(numpy.float32 if len(dims) == 1 else numpy.float16)
        writer.add_tensor_info(name, dims, kind, int(numpy.prod(dims)) * kind.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for i, (_, dims) in enumerate(names):
        write_tensor(writer, dims, [arguments.seed, i])
    writer.close()


if __name__ == "__main__":
    main()
