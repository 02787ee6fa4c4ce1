#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seed inputs of the targets above the containers: config, model, vocabulary, tokenizer, chat,
profile, record, yaml, training_data (corpus/<target>/)."""
import json
import struct

from make_corpus_io import CORPUS, F32, I32, STR, U32, BOOL, array, gguf, key, tensor

LLAMA = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 8,
         "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "vocab_size": 4}
GEMMA = dict(LLAMA, model_type="gemma3_text", head_dim=4, query_pre_attn_scalar=4, sliding_window=6,
             hidden_activation="gelu_pytorch_tanh")
BANDS = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 64}


def config_seeds():
    yield "llama", LLAMA
    yield "llama_bands", dict(LLAMA, rope_scaling=BANDS, tie_word_embeddings=True)
    yield "llama_linear", dict(LLAMA, rope_scaling={"type": "linear", "factor": 2}, rope_theta=5e5)
    yield "llama_yarn", dict(LLAMA, rope_scaling={"type": "yarn", "factor": 2})
    yield "llama_newer", dict(LLAMA, rope_parameters=dict(BANDS, rope_theta=1e4), hidden_act="silu")
    yield "llama_experts", dict(LLAMA, num_local_experts=8, quantization_config={"bits": 4})
    yield "gemma", GEMMA
    yield "gemma_types", dict(GEMMA, layer_types=["sliding_attention", "full_attention"])
    yield "gemma_pattern", dict(GEMMA, _sliding_window_pattern=2, final_logit_softcapping=None)
    yield "gemma_per_type", dict(GEMMA, rope_parameters={
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}})
    yield "zero_heads", dict(LLAMA, num_attention_heads=0)
    yield "huge", dict(LLAMA, num_hidden_layers=2**62, hidden_size=-1)


def model(arch, tensors, keys=(), sizes=(1, 8, 32, 32, 2, 1)):
    """A model whose tensors are (name, dims as GGUF has them, type, bytes)."""
    names = ["block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
             "attention.head_count_kv"]
    header = [key("general.architecture", STR, arch)]
    header += [array(f"{arch}.{n}", I32, v) if isinstance(v, list) else key(f"{arch}.{n}", U32, v)
               for n, v in zip(names, sizes)]
    header += [key(f"{arch}.attention.layer_norm_rms_epsilon", F32, 1e-5), *keys]
    table, data = [], b""
    for name, dims, kind, size in tensors:
        data += b"\0" * (-len(data) % 32)
        table.append(tensor(name, dims, kind, len(data)))
        data += bytes(i * 7 % 64 for i in range(size))
    return gguf(header, table, data)


def layer(i, kind, size):
    """Matrices of 32 columns, of `size` bytes a row."""
    def matrix(name, rows):
        return (f"blk.{i}.{name}.weight", [32, rows], kind, rows * size)
    return [(f"blk.{i}.attn_norm.weight", [32], 0, 128), matrix("attn_q", 32), matrix("attn_k", 16),
            matrix("attn_v", 16), matrix("attn_output", 32), (f"blk.{i}.ffn_norm.weight", [32], 0, 128),
            matrix("ffn_gate", 32), matrix("ffn_up", 32), matrix("ffn_down", 32)]


def model_seeds():
    tied = [("token_embd.weight", [32, 4], 8, 4 * 34), ("output_norm.weight", [32], 0, 128)]
    yield "q4_0", model("llama", tied + layer(0, 2, 18))
    yield "q5_1_untied", model("llama", tied + layer(0, 7, 24) + [("output.weight", [32, 4], 1, 256)])
    yield "rope", model("llama", tied + [("rope_freqs.weight", [8], 0, 32)] + layer(0, 2, 18))
    norms = [(f"blk.0.{n}.weight", [d], 0, 4 * d) for n, d in
             (("attn_q_norm", 16), ("attn_k_norm", 16), ("post_attention_norm", 32), ("post_ffw_norm", 32))]
    yield "gemma", model("gemma3", tied + layer(0, 2, 18) + norms,
                         [key("gemma3.attention.key_length", U32, 16), key("gemma3.attention.sliding_window", U32, 4)])
    yield "no_layer", model("llama", tied)
    yield "other_shape", model("llama", tied + layer(0, 2, 18), sizes=(1, 8, 64, 32, 2, 1))
    yield "other_type", model("llama", tied + layer(0, 24, 32))
    yield "other_arch", model("mamba", tied)
    thin = layer(1, 0, 128)  # one head of two, and 64 channels
    thin = [(n, [32, 16] if "attn_q" in n else [16, 32] if "attn_output" in n else [32, 64] if "gate" in n or "up" in n
             else [64, 32] if "down" in n else d, kind, 2048 if "attn_q" in n or "attn_output" in n
             else 8192 if "ffn_" in n and "norm" not in n else size) for n, d, kind, size in thin]
    lengths = [key("llama.attention.key_length", U32, 16)]
    yield "per_layer", model("llama", tied + layer(0, 2, 18) + thin, lengths, (2, 8, 32, [32, 64], [2, 1], 1))
    yield "per_layer_short", model("llama", tied + layer(0, 2, 18) + thin, lengths, (2, 8, 32, [32], [2, 1], [1, 1]))
    yield "per_layer_odd", model("llama", tied + layer(0, 2, 18) + thin, lengths, (2, 8, 32, [32, -1], [3, 1], [2, 1]))
    whole = [t for t in layer(0, 2, 18) if "ffn_up" not in t[0]]
    factors = [("blk.0.ffn_up.weight.a", [32, 8], 0, 1024), ("blk.0.ffn_up.weight.b", [8, 32], 1, 512)]
    for name, rank in (("factors", 8), ("factors_rank", 9), ("factors_huge", 2**40)):
        said = json.dumps({"format": "low-rank", "version": 1, "shape": [32, 32], "rank": rank, "linear": {}})
        yield name, model("llama", tied + whole + factors, [key("thimble.format.blk.0.ffn_up.weight", STR, said)])


def vocabulary(kind, pieces, merges=(), ids=(), keys=()):
    """Pieces are texts, or (text, type, score)."""
    full = [p if isinstance(p, tuple) else (p, 1, -float(i)) for i, p in enumerate(pieces)]
    header = [key("tokenizer.ggml.model", STR, kind), array("tokenizer.ggml.tokens", STR, [p[0] for p in full]),
              array("tokenizer.ggml.token_type", I32, [p[1] for p in full])]
    if kind == "llama":
        header.append(array("tokenizer.ggml.scores", F32, [p[2] for p in full]))
    if merges:
        header.append(array("tokenizer.ggml.merges", STR, list(merges)))
    header += [key(f"tokenizer.ggml.{n}_token_id", U32, v) for n, v in ids]
    return gguf(header + list(keys))


def vocabulary_seeds():
    letters = ["h", "e", "l", "o", "Ġ", "he", "ll", "hell", "hello", "Ġhello", ("<s>", 3, 0.0), ("</s>", 3, 0.0),
               ("<tag>", 4, 0.0)]
    merges = ["h e", "l l", "he ll", "hell o", "Ġ hello"]
    for pre in ("gpt-2", "smollm", "llama-bpe", "qwen2"):
        yield f"bytes_{pre}", vocabulary("gpt2", letters, merges, [("bos", 10), ("eos", 11)], [
            key("tokenizer.ggml.pre", STR, pre), key("tokenizer.ggml.add_bos_token", BOOL, True),
            key("text", STR, "hello hello<tag> <s>hell 12")])
    scored = [("<unk>", 2, 0.0), ("<s>", 3, 0.0), ("</s>", 3, 0.0), ("<0x41>", 6, 0.0), ("  ", 4, -9.0), "▁", "a", "b",
              "ab", "▁ab"]
    ids = [("bos", 1), ("eos", 2), ("unknown", 0)]
    yield "scored", vocabulary("llama", scored, ids=ids, keys=[key("text", STR, "ab  abA ab")])
    yield "scored_plain", vocabulary("llama", scored, ids=ids, keys=[
        key("tokenizer.ggml.add_space_prefix", BOOL, False), key("tokenizer.ggml.add_eos_token", BOOL, True)])
    yield "id_outside", vocabulary("llama", scored, ids=[("bos", 99)])
    yield "same_piece", vocabulary("llama", ["a", "a"])
    yield "bad_merge", vocabulary("gpt2", letters, ["h x"], keys=[key("tokenizer.ggml.pre", STR, "gpt-2")])
    yield "bad_byte", vocabulary("llama", [("<0xGG>", 6, 0.0)])
    yield "nan_score", vocabulary("llama", [("a", 1, float("nan"))])
    yield "template", vocabulary("llama", scored, ids=ids, keys=[
        key("tokenizer.chat_template", STR, "{{ '<|im_start|>' }}<|im_end|>")])


def tokenizer_seeds():
    def added(i, text, special=True):
        return {"id": i, "content": text, "special": special, "lstrip": False}

    vocab = {t: i for i, t in enumerate(["h", "e", "l", "o", "Ġ", "he", "ll", "hell", "hello", "Ġhello"])}
    model = {"type": "BPE", "vocab": vocab, "merges": ["h e", "l l", ["he", "ll"], "hell o", "Ġ hello"]}
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    yield "gpt2", {"tokenizer": {"added_tokens": [added(10, "<|endoftext|>")], "pre_tokenizer": level, "model": model},
                   "settings": {"bos_token": "<|endoftext|>"}, "text": "hello hello"}
    yield "smollm", {"tokenizer": {"added_tokens": [added(10, "<s>"), added(11, "<tag>", False)], "model": model,
                                   "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                                       {"type": "Digits", "individual_digits": True}, level]}},
                     "special_map": {"eos_token": {"content": "<s>"}}, "config": {"vocab_size": 14},
                     "text": "12<tag>hello"}
    pieces = ["<unk>", "<s>", "</s>", "<0x41>", "▁", "a", "b", "ab", "▁ab", "▁▁"]
    scored = {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "vocab": {t: i for i, t in enumerate(pieces)},
              "merges": [["a", "b"], ["▁", "ab"], ["▁", "▁"]]}
    specials = [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")]
    to_mark = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    bos_first = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]}
    yield "llama2", {"tokenizer": {"added_tokens": specials, "model": scored, "post_processor": bos_first, "normalizer": {
        "type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, to_mark]}},
        "settings": {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": True}, "text": "ab  abA"}
    yield "gemma", {"tokenizer": {"added_tokens": specials, "model": scored, "normalizer": to_mark, "pre_tokenizer": {
        "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious"}}, "config": {"eos_token_id": [2]}}
    yield "metaspace", {"tokenizer": {"model": scored, "pre_tokenizer": {
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}},
        "settings": {"chat_template": [{"name": "default", "template": "x"}]}, "text": " ab"}
    yield "strip", {"tokenizer": {"added_tokens": [dict(added(9, "x"), lstrip=True)], "model": model,
                                  "pre_tokenizer": level}}
    yield "far_id", {"tokenizer": {"model": {"vocab": {"a": 2**40}, "merges": []}, "pre_tokenizer": level}}


def chat_seeds():
    yield "chatml", "{% if true %}{{ '<|im_start|>system\\nBe kind<|im_end|>\\n' }}{% endif %}", "Hi <|im_end|>"
    yield "gemma", "{{ '<start_of_turn>' + role }}{{ '<end_of_turn>' }}", "  Hi <start_of_turn>model\n"
    yield "llama3", "<|start_header_id|><|eot_id|>", "<|eot_id|>\u00a0"
    yield "llama3_dated", "<|start_header_id|><|eot_id|>Cutting Knowledge Date: {{ date }}", "Hi"
    yield "zephyr", "{{ '<|user|>\\n' + message['content'] + eos_token }}", "</s><|assistant|>"
    yield "none", "", ""
    yield "other", "[INST] {{ content }} [/INST]", "[INST]"


def profile_seeds():
    rate = {"threads": 1, "read_bytes_per_second": 1e10, "copy_bytes_per_second": 9e9, "f32_ops_per_second": 1e11,
            "i8_ops_per_second": 2e11}
    disk = {"read_bytes_per_second": 1e9, "write_bytes_per_second": 5e8}
    profile = {"schema": "thimble.machine.v1", "cpu": "CPU", "isa": "avx2", "rates": [rate, dict(rate, threads=4)],
               "disk": disk}
    yield "two", profile
    yield "huge", dict(profile, rates=[dict(rate, threads=1), dict(rate, threads=2**63 - 1, i8_ops_per_second=1e308)])
    yield "descending", dict(profile, rates=[dict(rate, threads=4), rate])
    yield "zero", dict(profile, disk=dict(disk, read_bytes_per_second=0))
    yield "none", dict(profile, rates=[])
    yield "other", {"schema": "thimble.machine.v2"}


def record_seeds():
    facts = {"name": "Tiny", "file": "tiny.gguf", "sha256": "00ff" * 16, "architecture": "llama", "format": "q8_0",
             "file_bytes": 1536, "parameters": 1000, "bits_per_weight": 8.5}
    settings = {"context_tokens": 16, "windows": 3, "step_tokens": 512, "cache_type_k": "f16", "cache_type_v": "f16",
                "kv_policy": "full", "activations": "auto", "device": "cpu", "isa": "avx2", "cpu": "CPU", "threads": 2}
    value = {"value": 2.5, "standard_error": 0.125}
    estimates = ("reference_perplexity", "kld_mean", "same_top", "mean_delta_p", "rms_delta_p", "perplexity_ratio",
                 "perplexity_change")
    record = {"schema": "thimble.evaluation.v1", "model": facts, "settings": settings,
              "peak_memory": {"predicted_bytes": 1000, "measured_bytes": 900}, "seconds": 0.5}
    yield "bare", record
    yield "speed", dict(record, speed={"prompt_tokens": 4, "decode_tokens": 4, "repeats": 1, "bytes_per_token": 9,
                                       "prefill_tokens_per_second": 1e3, "decode_tokens_per_second": None})
    yield "full", dict(record, reference=facts, text={"file": "t.txt", "sha256": "12", "bytes": 9, "tokens": 5},
                       perplexity={"tokens": 4, "nll": value, "perplexity": value},
                       divergence=dict({e: value for e in estimates}, kld_median=0.1, kld_p99=1, kld_p999=1.5,
                                       kld_max=1e300))
    yield "control", dict(record, model=dict(facts, file="\x1b[2J\x7f\n"))
    yield "negative", dict(record, model=dict(facts, file_bytes=-1))
    yield "other", {"schema": "thimble.report.v1"}


def yaml_seeds():
    yield "options", "flag: yes\ncount: 12\nrate: 1e-3\nname: 'x: y'\nlist: [a, \"b\\x01\", 'c']\n"
    yield "method", "name: {name: kv, sink: 4, types: [a, 'b,c']}\nlist:\n  - {name: m, k: v}\n  - -5\n"
    yield "alias", "list: &l [a, b]\nname: *l\n"
    yield "unknown", "cuont: 1\n"
    yield "out_of_range", "count: 101\n"
    yield "block", "name: |\n  two\n  lines\nlist:\n  - >\n    folded\n"
    yield "inline", "flag=true,count=3,name=a\\,b"
    yield "null", "name: ~\nflag:\n"
    yield "twice", "flag: 1\nflag: 0\n"
    yield "documents", "flag: 1\n---\nflag: 0\n"


def training_data_seeds():
    """The first byte chooses how the rest is read: even ones as JSON lines."""
    def talk(*turns, **more):
        return dict(messages=[{"role": r, "content": c} for r, c in turns], **more)

    def lines(*records):
        return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)

    jsonl = {
        "text": lines({"text": "one two"}, {"text": "three " * 9, "id": 3}),
        "messages": lines(talk(("user", "Hi"), ("assistant", "Hello")), talk(("system", "S"), ("user", "a<|im_end|>"),
                                                                            ("assistant", "\n\nb"))),
        "conversations": lines({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}),
        "completion": lines({"prompt": "2+2=", "completion": "4"}, {"prompt": "", "completion": "</s>"}),
        "lists": lines({"prompt": [{"role": "user", "content": "Q"}],
                        "completion": [{"role": "assistant", "content": "A"}]}),
        "instruction": lines({"instruction": "Do", "input": "it", "output": "Done", "system": None}),
        "weight": lines({"messages": [{"role": "assistant", "content": "x", "weight": 0},
                                      {"role": "assistant", "content": "y", "weight": 1.0}]}),
        "mixed": lines({"text": "one"}, {"prompt": "a", "completion": "b"}),
        "tools": lines(talk(("user", "Q"), ("assistant", "A"), tools=[{"name": "f"}])),
        "deep": '{"text": ' + "[" * 40,
    }
    for number, (name, text) in enumerate(jsonl.items()):
        yield name, bytes([2 * number]) + text.encode()
        yield name + "_bos", bytes([128 + 2 * number]) + text.encode()
    for choice in (1, 3, 5, 7, 21, 129):
        yield f"plain{choice}", bytes([choice]) + "\ufeffone line\nand two\n\n\u00fcber ".encode() + b"x" * 500
    yield "not_utf8", b"\x01abc\n\n\xff\n"


def write(target, seeds):
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    for name, *parts in seeds:
        if len(parts) == 2:
            data = parts[0].encode() + b"\0" + parts[1].encode()
        else:
            data = parts[0] if isinstance(parts[0], bytes) else (
                parts[0] if isinstance(parts[0], str) else json.dumps(parts[0], ensure_ascii=False)).encode()
        (CORPUS / target / name).write_bytes(data)


if __name__ == "__main__":
    write("config", config_seeds())
    write("model", model_seeds())
    write("vocabulary", vocabulary_seeds())
    write("tokenizer", tokenizer_seeds())
    write("chat", chat_seeds())
    write("profile", profile_seeds())
    write("record", record_seeds())
    write("yaml", yaml_seeds())
    write("training_data", training_data_seeds())
