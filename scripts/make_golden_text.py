#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/text: 5,000 mixed lines and, per tokenizer, the FNV-1a hash of the token ids that
the Hugging Face `tokenizers` library gives for each line. Development only.

usage: make_golden_text.py MODELS_DIR [--export DIR]

The reference tokenizers are built from the vocabularies in the two GGUF files, with the
normalizer, pre-tokenizer, model and decoder that the models' published tokenizer.json files define
(SmolLM2: single digits, then GPT-2's pattern; Gemma 3: spaces to U+2581, BPE with byte fallback,
user-defined pieces first). transformers' own GGUF conversion is not used: it drops the digit split
and ranks user-defined pieces last. --export writes them as Hugging Face directories.
"""
import argparse
import json
import pathlib
import random
import sys

import gguf
import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests" / "golden" / "text"
SMOLLM = "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA = "gemma-3-270m-q4_k_m.gguf"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def fields(path):
    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.")}


def added(pieces, kinds):
    return [AddedToken(p, normalized=False, special=k == CONTROL)
            for p, k in zip(pieces, kinds) if k in (CONTROL, USER_DEFINED)]


def smollm_reference(meta):
    pieces, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    merges = [tuple(m.split(" ")) for m in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(added(pieces, kinds))
    return tokenizer


def gemma_reference(meta):
    kinds = meta["tokenizer.ggml.token_type"]
    pieces = [p.replace(" ", "\u2581") if k == USER_DEFINED else p
              for p, k in zip(meta["tokenizer.ggml.tokens"], kinds)]
    scores = [0.0 if k == USER_DEFINED else s for s, k in zip(meta["tokenizer.ggml.scores"], kinds)]
    vocabulary = {p: i for i, p in enumerate(pieces)}
    merges = []
    for piece, kind, score in zip(pieces, kinds, scores):
        if kind in (NORMAL, USER_DEFINED):
            splits = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
            splits = [s for s in splits if s[0] in vocabulary and s[1] in vocabulary]
            splits.sort(key=lambda s: (vocabulary[s[0]], vocabulary[s[1]]))
            merges += [(score, left, right) for left, right in splits]
    merges.sort(key=lambda m: (m[0], len(m[1]), len(m[2])), reverse=True)
    tokenizer = Tokenizer(models.BPE(vocabulary, [m[1:] for m in merges], unk_token="<unk>", fuse_unk=True,
                                     byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_tokens(added(pieces, kinds))
    return tokenizer


WORDS = """the of and to in a is that it was for on are with as his they be at one have this from or had by hot
but some what there we can out other were all your when up use word how said an each she which do their time if will way
about many then them would write like so these her long make thing see him two has look more day could go come did my
sound no most number who over know water than call first people may down side been now find unforgettable
antidisestablishmentarianism naïve façade Zürich Ærøskøbing Łódź İstanbul straße coöperate don't I'll we've you're
it's I'd I'm DON'T IT'S O'Neill rock'n'roll 'tis e.g. U.S.A. Mr. Ph.D. user@example.com https://example.org/a?b=c&d=%20#e
C:\\Windows\\System32 /usr/share/common-licenses/GPL-3 snake_case camelCase PascalCase kebab-case SCREAMING_CASE""".split()
CODE = ["for (int i = 0; i < n; ++i) {", "    return x if x else None", "\tif err != nil {", "#include <vector>", "}\n\n\n",
        "def f(self, *args, **kwargs) -> dict[str, int]:", "const x = (a) => ({...a, b: [1, 2, 3]});", "SELECT * FROM t WHERE id=42;",
        "        self.x_ = x  # 8 spaces", "std::vector<std::pair<int, double>>& v;", "<div class=\"a\"><p>text</p></div>",
        "<table><tr><td>1</td></tr></table>", "a->b::c.d()[0]", "x ^= (x << 13) | ~0xFFu;", "printf(\"%5.2f\\n\", x);", "// TODO: \\t \\n \\x00",
        "|   a |  b  |", "|---|:-:|", "$\\frac{a}{b} \\leq \\sum_{i=1}^{n} x_i$", "{\"key\": [null, true, -1.5e-10]}", "``` python", "=== >>> <<< !== ?. ?? **=",
        "\t\t\tdeep();", "\r\n", "end\r\n\r\n", "> quote\n> more", "1. item\n   - sub\n\n2. item", "https://a.b/c_(d)"]
CJK = ["你好,世界!", "今天天气很好。", "機械学習のモデル", "こんにちは、元気ですか?", "カタカナ・ｶﾅ", "안녕하세요 세계", "대한민국", "龘𠀀𪚥", "「引用」『』、。", "１２３４５", "三百二十一", "ㄅㄆㄇ", "全角　空白"]
EMOJI = ["😀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "🇯🇵🇺🇸", "👍🏽", "🧑🏿‍🚀", "1️⃣", "#️⃣", "❤️", "☺", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "🫠", "🪿", "👩🏻‍❤️‍💋‍👨🏾", "🇪", "‍", "️"]
MARKS = ["e\u0301", "a\u0308o\u0304", "n\u0303n\u0303", "Z\u0351\u036b\u0343\u0313a\u0310\u0312l\u0306\u030ag\u0310o\u0304", "हिन्दी में", "தமிழ் மொழி", "ภาษาไทยไม่มีช่องว่าง", "ພາສາລາວ", "བོད་ཡིག", "ខ្មែរ", "မြန်မာ", "\u0301x", "q\u0307\u0323", "\u1e9b\u0323"]
RTL = ["שלום עולם", "שָׁלוֹם", "مرحبا بالعالم", "اَلْعَرَبِيَّةُ", "فارسی‌زبان", "\u200fabc\u200e", "١٢٣٤", "۴۵۶", "ܫܠܡܐ", "ދިވެހި"]
SPACES = [" ", "  ", "   ", " " * 7, " " * 31, " " * 32, " " * 63, "\t", "\t\t", "\t" * 33, "\n", "\n\n", "\n" * 5, "\n" * 33, " \n ", "\t \t", "\u00a0", "\u3000", "\u2003\u2009", "\u200b", "\ufeff",
          "\r", "\x0b", "\x0c", "\u0085", "\u2028", "\u2029", "\u1680", " \u00a0 ", "\n \n", "  \n"]
NUMBERS = ["0", "42", "1234567890", "3.14159", "-1e-5", "0x7fffffff", "1,000,000", "½ ¾", "x² + y³", "Ⅷ Ⅻ", "①②", "१२३", "๔๕", "2024-02-30T12:34:56Z", "192.168.0.1", "+49 (0)30 1234", "100%", "$9.99", "€5", "1st 2nd 3rd", "٣٫١٤", "𝟘𝟙𝟚", "〇", "٪"]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>system\nYou are<|im_end|>\n", "<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<start_of_turn>user\n", "<end_of_turn>", "<unused42>", "[multimodal]",
           "<0x0A>", "<0xE2>", "<start_of_image>", "<repo_name>", "<file_sep>", "<|im_start", "im_end|>", "<<bos>>", "<|im_end|><|im_end|>", "</s>", "<s>", "<h1>", "</h1>", "<b>bold</b>", "▁", "▁▁", "▁ ▁▁ a", "Ġthe", "Ċ", "<|eot_id|>", "<unused9", "<unused99999>", "<empty_output>"]
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + ["...", "…", "—", "–", "“quoted”", "‘x’", "«»", "¿¡", "§", "†", "™", "©", "→⇒↔", "≤≥≠≈", "∑∏∫√∞", "█▓▒░", "╔═╗║", "★☆", "♠♥", "°C", "µm", "№", "'ſ", "ﬁ ﬂ", "Å", "K"]


def rare(rng):
    blocks = [(0, 0x20), (0x7f, 0xa0), (0x300, 0x370), (0x530, 0x1100), (0x1100, 0x2000), (0x2000, 0x2c00), (0x2e80, 0xa000), (0xa000, 0xd800),
              (0xe000, 0xf900), (0xf900, 0x10000), (0x10000, 0x12000), (0x12000, 0x20000), (0x1f000, 0x1fb00), (0x20000, 0x32000), (0xe0000, 0xe01f0), (0xf0000, 0x110000)]
    first, last = rng.choice(blocks)
    return "".join(chr(rng.randrange(first, last)) for _ in range(rng.randint(1, 5)))


def long_word(rng):
    kind = rng.randrange(5)
    count = rng.randint(20, 150)
    if kind == 0:
        return rng.choice("aA=-_#*.xあ") * count
    if kind == 1:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(count))
    if kind == 2:
        return "".join(rng.choice("0123456789abcdefABCDEF") for _ in range(count))
    if kind == 3:
        return rng.choice(["ab", "aba", "lol", "ha", "的是", "na ", "\n\t", "  x"]) * (count // 3)
    return "".join(rng.choice("ACGT") for _ in range(count))


def fragment(rng):
    table = [(lambda: " ".join(rng.choices(WORDS, k=rng.randint(1, 5))), 28), (lambda: rng.choice(CODE), 12), (lambda: "".join(rng.choices(CJK, k=rng.randint(1, 2))), 8),
             (lambda: "".join(rng.choices(EMOJI, k=rng.randint(1, 2))), 7), (lambda: rng.choice(MARKS), 6), (lambda: rng.choice(RTL), 5), (lambda: rng.choice(SPACES), 8),
             (lambda: rng.choice(NUMBERS), 8), (lambda: rng.choice(SPECIAL), 8), (lambda: "".join(rng.choices(PUNCTUATION, k=rng.randint(1, 4))), 6), (lambda: rare(rng), 5), (lambda: long_word(rng), 0.6)]
    make, = rng.choices([t[0] for t in table], weights=[t[1] for t in table])
    return make()


def make_lines():
    rng = random.Random(20240501)
    lines = []
    while len(lines) < 5000:
        line = ""
        for _ in range(rng.choice([1, 1, 2, 2, 3, 4])):
            line += rng.choice(["", " ", " ", "  "]) if line else ""
            line += fragment(rng)
        if line:
            lines.append(line)
    return lines


def escape(line):
    return line.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\0", "\\0")


def fnv1a(ids, state=0xCBF29CE484222325):
    for token in ids:
        for byte in (token & 0xFFFFFFFF).to_bytes(4, "little"):
            state = (state ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return state


def encode(tokenizer, line, parse_special):
    tokenizer.encode_special_tokens = not parse_special
    return tokenizer.encode(line, add_special_tokens=False).ids


def export(tokenizer, directory, config):
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.encode_special_tokens = False
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def token_texts(meta):
    pieces = meta["tokenizer.ggml.tokens"]
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    config = {f"{name}_token": pieces[meta[f"tokenizer.ggml.{key}_token_id"]] for name, key in names.items()}
    for flag in ("add_bos_token", "add_eos_token"):
        if f"tokenizer.ggml.{flag}" in meta:
            config[flag] = meta[f"tokenizer.ggml.{flag}"]
    if "tokenizer.chat_template" in meta:
        config["chat_template"] = meta["tokenizer.chat_template"]
    return config


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", type=pathlib.Path)
    parser.add_argument("--export", type=pathlib.Path)
    parser.add_argument("--show", type=int, help="print the ids of one line")
    args = parser.parse_args()
    lines = make_lines()
    OUT.mkdir(parents=True, exist_ok=True)
    with open(OUT / "lines.txt", "w", encoding="utf-8", newline="\n") as out:
        out.writelines(escape(line) + "\n" for line in lines)
    for name, file, build in (("smollm2", SMOLLM, smollm_reference), ("gemma3", GEMMA, gemma_reference)):
        meta = fields(args.models / file)
        tokenizer = build(meta)
        hashes = b""
        for i, line in enumerate(lines):
            plain, special = encode(tokenizer, line, False), encode(tokenizer, line, True)
            hashes += fnv1a(special, fnv1a(plain + [-1])).to_bytes(8, "little")
            if i == args.show:
                print(name, repr(line), plain, special, file=sys.stderr)
        (OUT / f"{name}.fnv").write_bytes(hashes)
        if args.export:
            export(tokenizer, args.export / name, token_texts(meta))
    print(f"tokenizers {tokenizers.__version__}: {len(lines)} lines, {(OUT / 'lines.txt').stat().st_size} bytes")


main()
