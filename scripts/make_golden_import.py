#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the tiny quantised checkpoints of tests/golden/import, packed and decoded by the methods' own packages.

Each <name>/ is a Hugging Face directory whose matrices were packed by gptqmodel, autoawq, bitsandbytes or
compressed-tensors. <name>.golden.safetensors holds what the same package decodes from its own tensors, in F32:
`weight.<module>` for two matrices and `sha256.<module>` (U8 [32], of the little-endian F32 rows) for all, and per
prompt `prompt.0` (I32) and `logits.0` (F32) of transformers with those weights; and the versions that made them.
Scales are widened to F32 before decoding, so that each weight is one product, rounded once.

Needs torch, transformers, safetensors, gptqmodel, autoawq, bitsandbytes and compressed-tensors (installed with
--no-deps where their pins clash; all of it runs on a CPU). Usage: make_golden_import.py [NAME...]
"""
import hashlib
import importlib.metadata
import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "import"
SHOWN = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj")
PROMPT_TOKENS = 12


def config():
    return LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=1,
        eos_token_id=2, pad_token_id=0, attn_implementation="eager")


def plain_model(seed):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(), dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in name:
                p.copy_(0.2 * noise + 1.0)
            else:
                p.copy_(noise * ((3.0 if "embed" in name else 1.5) / p.shape[1] ** 0.5))
    return model.half()


def round_to_nearest(weight, bits, group, sym, dtype=torch.float16):
    """Scales and zero points [out, groups] of groups of `group` inputs."""
    groups = weight.float().reshape(weight.shape[0], -1, group)
    top = 2 ** bits - 1
    if sym:
        scale = 2 * groups.abs().amax(-1) / top
        zero = torch.full_like(scale, 2 ** (bits - 1))
    else:
        low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
        scale = (high - low) / top
        zero = torch.round(-low / scale)
    return scale.to(dtype), zero.clamp(0, top)


def gptq(weight, spec, seed):
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization.config import QuantizeConfig
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    out_features, in_features = weight.shape
    bits, sym = spec["bits"], spec["sym"]
    group = in_features if spec["group"] == -1 else spec["group"]
    order = torch.arange(in_features)
    if spec.get("act_order"):
        order = torch.randperm(in_features, generator=torch.Generator().manual_seed(seed))
    g_idx = torch.empty(in_features, dtype=torch.int32)
    g_idx[order] = (torch.arange(in_features) // group).int()
    scales, zeros = round_to_nearest(weight[:, order], bits, group, sym)
    linear = torch.nn.Linear(in_features, out_features, bias=False, dtype=torch.float32)
    linear.weight.data = weight.float()
    module = TorchLinear(bits=bits, group_size=spec["group"], sym=sym, desc_act=bool(spec.get("act_order")),
                         in_features=in_features, out_features=out_features, bias=False)
    module.pack_original(linear, scales.float(), zeros, g_idx=g_idx)
    module.post_init()
    kept = module.scales
    module.scales = kept.float()
    decoded = module.dequantize_weight().T.contiguous().float()
    module.scales = kept
    if spec["format"] == "gptq":
        convert_gptq_v2_to_v1_format_module(module, QuantizeConfig(bits=bits, group_size=spec["group"]))
    tensors = {"qweight": module.qweight, "qzeros": module.qzeros, "scales": module.scales, "g_idx": module.g_idx}
    if spec.get("no_g_idx"):
        tensors.pop("g_idx")
    return tensors, decoded


def gptq_config(spec):
    return {"bits": spec["bits"], "group_size": spec["group"], "desc_act": bool(spec.get("act_order")),
            "sym": spec["sym"], "lm_head": False, "quant_method": "gptq", "checkpoint_format": spec["format"],
            "pack_dtype": "int32", "damp_percent": 0.05, "true_sequential": True, "static_groups": False,
            "meta": {"quantizer": ["gptqmodel:" + importlib.metadata.version("gptqmodel")]}}


def awq(weight, spec, _):
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float16)
    linear.weight.data = weight
    scales, zeros = round_to_nearest(weight, 4, spec["group"], False)
    module = WQLinear_GEMM.from_linear(linear, 4, spec["group"], scales=scales.T.contiguous(),
                                       zeros=zeros.T.contiguous())
    decoded = dequantize_gemm(module.qweight, module.qzeros, module.scales.float(), 4, spec["group"])
    return {"qweight": module.qweight, "qzeros": module.qzeros, "scales": module.scales}, decoded.T.contiguous()


def awq_config(spec):
    return {"quant_method": "awq", "bits": 4, "group_size": spec["group"], "zero_point": True, "version": "gemm",
            "modules_to_not_convert": None}


def bitsandbytes(weight, spec, _):
    import bitsandbytes.functional as bnb

    codes, state = bnb.quantize_4bit(weight, blocksize=spec["group"], quant_type=spec["type"],
                                     compress_statistics=spec["nested"])
    tensors = {"weight": codes}
    tensors.update({"weight." + name: tensor for name, tensor in state.as_dict(packed=True).items()})
    state.dtype = torch.float32
    return tensors, bnb.dequantize_4bit(codes, state).float()


def bitsandbytes_config(spec):
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=spec["type"],
                                bnb_4bit_use_double_quant=spec["nested"])
    return config.to_dict()


def compressed_scheme(spec):
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    if spec["kind"] == "mxfp4":
        weights = QuantizationArgs(num_bits=4, type="float", symmetric=True, strategy="group", group_size=32,
                                   scale_dtype=torch.uint8)
    else:
        weights = QuantizationArgs(num_bits=spec["bits"], type="int", symmetric=spec["sym"],
                                   strategy="channel" if spec["group"] == -1 else "group",
                                   group_size=None if spec["group"] == -1 else spec["group"])
    return QuantizationScheme(targets=["Linear"], weights=weights)


def compressed(weight, spec, _):
    from compressed_tensors.compressors.mxfp4 import MXFP4PackedCompressor
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor

    scheme = compressed_scheme(spec)
    if spec["kind"] == "mxfp4":
        peak = weight.float().reshape(weight.shape[0], -1, 32).abs().amax(-1)
        scale = torch.exp2(torch.floor(torch.log2(peak)) - 2)
        packed = MXFP4PackedCompressor.compress({"weight": weight.float(), "weight_scale": scale}, scheme)
        decoded = MXFP4PackedCompressor.decompress(dict(packed), scheme)["weight"].float()
        return packed, decoded
    group = weight.shape[1] if spec["group"] == -1 else spec["group"]
    scale, zero = round_to_nearest(weight, spec["bits"], group, spec["sym"], torch.bfloat16)
    state = {"weight": weight.float(), "weight_scale": scale}
    if not spec["sym"]:
        state["weight_zero_point"] = (zero - 2 ** (spec["bits"] - 1)).to(torch.int8)
    packed = PackedQuantizationCompressor.compress(state, scheme)
    widened = dict(packed, weight_scale=packed["weight_scale"].float())
    return packed, PackedQuantizationCompressor.decompress(widened, scheme)["weight"].float()


def compressed_config(spec):
    group = json.loads(compressed_scheme(spec).model_dump_json())
    return {"quant_method": "compressed-tensors",
            "format": "mxfp4-pack-quantized" if spec["kind"] == "mxfp4" else "pack-quantized",
            "config_groups": {"group_0": group}, "ignore": ["lm_head"], "kv_cache_scheme": None,
            "quantization_status": "compressed", "global_compression_ratio": None}


def mxfp4(weight, spec, seed):
    """gpt-oss' names and shapes for the same codes; decoded by transformers."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    packed, _ = compressed(weight, dict(spec, kind="mxfp4"), seed)
    rows, half = packed["weight_packed"].shape
    blocks = packed["weight_packed"].reshape(rows, half // 16, 16).contiguous()
    scales = packed["weight_scale"]
    decoded = convert_moe_packed_tensors(blocks[None], scales[None], dtype=torch.float32)[0].T  # [in, out] there
    return {"weight_blocks": blocks, "weight_scales": scales}, decoded.contiguous().float()


def mxfp4_config(_):
    return {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}


CHECKPOINTS = {
    "gptq-4bit": (gptq, gptq_config, dict(bits=4, group=32, sym=True, format="gptq", no_g_idx=True)),
    "gptq-4bit-act-order": (gptq, gptq_config, dict(bits=4, group=32, sym=False, format="gptq_v2", act_order=True)),
    "gptq-3bit": (gptq, gptq_config, dict(bits=3, group=-1, sym=False, format="gptq")),
    "gptq-2bit": (gptq, gptq_config, dict(bits=2, group=64, sym=False, format="gptq")),
    "gptq-8bit": (gptq, gptq_config, dict(bits=8, group=64, sym=True, format="gptq_v2")),
    "awq": (awq, awq_config, dict(group=32)),
    "bnb-nf4-nested": (bitsandbytes, bitsandbytes_config, dict(type="nf4", nested=True, group=64)),
    "bnb-nf4": (bitsandbytes, bitsandbytes_config, dict(type="nf4", nested=False, group=64)),
    "bnb-fp4": (bitsandbytes, bitsandbytes_config, dict(type="fp4", nested=False, group=64)),
    "ct-int4": (compressed, compressed_config, dict(kind="int", bits=4, group=32, sym=False)),
    "ct-int8-channel": (compressed, compressed_config, dict(kind="int", bits=8, group=-1, sym=True)),
    "ct-mxfp4": (compressed, compressed_config, dict(kind="mxfp4")),
    "mxfp4": (mxfp4, mxfp4_config, dict()),
}
PACKAGES = ("torch", "transformers", "gptqmodel", "autoawq", "bitsandbytes", "compressed-tensors")


def make(name, number):
    pack, describe, spec = CHECKPOINTS[name]
    model = plain_model(7000 + number)
    tensors, golden = {}, {}
    state = model.state_dict()
    for key, value in state.items():
        module = key.removesuffix(".weight")
        if value.ndim != 2 or not module.startswith("model.layers"):
            tensors[key] = value.contiguous()
            continue
        packed, decoded = pack(value, spec, number)
        decoded = decoded + 0.0  # ggml's MXFP4 has no negative zero
        for part, tensor in packed.items():
            tensors[f"{module}.{part}"] = tensor.contiguous().clone()
        state[key] = decoded
        digest = hashlib.sha256(decoded.numpy().astype("<f4").tobytes()).digest()
        golden["sha256." + module] = torch.tensor(list(digest), dtype=torch.uint8)
        if module in SHOWN:
            golden["weight." + module] = decoded.clone()
    # A new one: .half() has rounded the frequencies of the rotation, too.
    model = AutoModelForCausalLM.from_config(config(), dtype=torch.float32)
    model.load_state_dict({key: value.float() for key, value in state.items()})
    generator = torch.Generator().manual_seed(number)
    prompt = torch.randint(3, model.config.vocab_size, (PROMPT_TOKENS,), generator=generator)
    with torch.no_grad():
        golden["logits.0"] = model.eval()(prompt[None]).logits[0].float().contiguous()
    golden["prompt.0"] = prompt.int()

    directory = OUT / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    settings = model.config.to_dict()
    settings["architectures"] = ["LlamaForCausalLM"]
    settings["dtype"] = "float16"
    settings["quantization_config"] = describe(spec)
    (directory / "config.json").write_text(json.dumps(settings, indent=2, default=str) + "\n")
    made_with = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES)
    save_file(golden, OUT / f"{name}.golden.safetensors", metadata={"made_with": made_with})
    print(f"{name}: {sum(f.stat().st_size for f in directory.iterdir())} bytes")


def main():
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or list(CHECKPOINTS)
    for name in wanted:
        make(name, list(CHECKPOINTS).index(name))


if __name__ == "__main__":
    main()
