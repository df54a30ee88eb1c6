"""A language model written as a GGUF file, which llama.cpp and what is built on it open.

    write(network, Path("model.gguf"), "q4_k_m", tokenizer_metadata)

One tensor at a time is converted and rounded; blocks of the wanted type stay as they are. What the file says is read back before it appears
under its name: a model that GGUF has no words for (a window or scaling of its own) is an error.
"""

import math
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daedal.checkpoints import gguf_file
from daedal.checkpoints.gguf_config import ARCHITECTURES, EPSILONS, KEYS, config_of
from daedal.checkpoints.gguf_names import FUSED, INTERLEAVED, LAYER, TOP, halves, shift
from daedal.errors import DaedalError
from daedal.networks import build, config_from_dict
from daedal.networks.config import one_of
from daedal.networks.decoder import Decoder
from daedal.nn.blocks import KINDS, to_blocks
from daedal.nn.quantized import QuantLinear, kinds_for
from daedal.nn.rope import Rope, base_frequencies, frequencies, llama3

# What a file may be asked for, beside what its model is made of already.
ASKED = ("auto", "f32", "f16", "bf16", "q8_0", "q4_k_m")
# llama.cpp's number of a file whose matrices are mostly of a type.
FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k": 12, "q4_k": 15, "q5_k": 17, "q6_k": 18,
    "iq4_nl": 25, "iq4_xs": 30, "bf16": 32,
}  # fmt: skip
PACKED = {"int8": "q8_0"}  # what rows of our own become
NAMES = {family: name for name, family in ARCHITECTURES.items()} | {
    "mistral": "llama",
    "mixtral": "llama",
}
WHOLE_QKV = ("gpt2", "gpt_neox", "phi3")  # families whose queries, keys and values are one matrix
LAYER_NORMED = ("gpt2", "gpt_neox", "starcoder2")
# Fields that decide nothing, or are compared as windows and frequencies.
UNCOMPARED = (
    "model_type", "bos_token_id", "eos_token_id", "pad_token_id", "sliding_window", "layer_types", "rope_scaling", "rope_theta",
    "partial_rotary_factor", "max_window_layers", "use_sliding_window", "router_aux_loss_coef", "original_max_position_embeddings",
    "rope_local_base_freq",
)  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """A tensor of the file, of one of ours or of several, and the type it is written in."""

    name: str
    ours: tuple[str, ...]
    shape: tuple[int, ...]
    kind: str


def write(network: Decoder, path: Path, kind: str, metadata: dict[str, Any]) -> None:
    """Write the file, whole or not at all, with matrices of type `kind`: "auto" keeps packed ones
    as they are, and floating point in 16 bits. `metadata` are of the tokenizer, by key."""
    from gguf import GGUFWriter

    one_of("type", kind, ASKED)
    config = network.config
    name = NAMES[config.model_type]
    planned = plan(network, kind)
    factors = rope_tensors(config)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(partial, name)
    try:
        for key, value in {**general(path, planned), **described(config, name), **metadata}.items():
            add(writer, key, value)
        for each in [*planned, *(Planned(key, (), v.shape, "f32") for key, v in factors.items())]:
            declare(writer, each)
        for step in ("header", "kv_data", "ti_data"):
            getattr(writer, f"write_{step}_to_file")()
        for each in planned:
            writer.write_tensor_data(encoded(network, each).numpy())
        for tensor in factors.values():
            writer.write_tensor_data(tensor.numpy())
        writer.close()
        check(partial, config)
        os.replace(partial, path)
    finally:
        writer.close()
        partial.unlink(missing_ok=True)


# Metadata.


def general(path: Path, planned: list[Planned]) -> dict[str, Any]:
    weights = Counter[str]()
    for each in planned:
        weights[each.kind] += math.prod(each.shape)
    return {
        "general.type": "model",
        "general.name": path.stem,
        "general.file_type": FILE_TYPES[weights.most_common(1)[0][0]],
        "general.quantization_version": 2,
    }


def described(config: Any, name: str) -> dict[str, Any]:
    """The config by llama.cpp's keys."""
    found = {key: getattr(config, field, None) for field, key in KEYS.items()}
    found["attention.value_length"] = config.head_dim
    found[EPSILONS[config.model_type in LAYER_NORMED]] = config.rms_norm_eps
    found["attention.sliding_window"] = max(windows(config), default=0) or None
    found |= rope_metadata(config)
    return {f"{name}.{key}": value for key, value in found.items() if value is not None}


def windows(config: Any) -> list[int]:
    """Of each layer, 0 where it sees everything."""
    return [config.window(layer) or 0 for layer in range(config.num_hidden_layers)]


def rope_metadata(config: Any) -> dict[str, Any]:
    scaling = dict(config.rope_scaling)
    kind, key = scaling.get("rope_type"), "rope.scaling.{}".format
    out: dict[str, Any] = {
        "rope.dimension_count": int(config.head_dim * config.partial_rotary_factor),
        "rope.freq_base_swa": getattr(config, "rope_local_base_freq", None),
    }
    if kind in ("linear", "yarn"):
        out |= {key("type"): kind, key("factor"): float(scaling["factor"])}
    if kind in ("yarn", "longrope"):
        out[key("original_context_length")] = scaling.get("original_max_position_embeddings")
    if kind == "yarn":
        out |= {key(f"yarn_beta_{end}"): scaling.get(f"beta_{end}") for end in ("fast", "slow")}
    if kind == "longrope":
        out[key("attn_factor")] = frequencies(config.ropes()["global"], 0)[1]
    return out


def rope_tensors(config: Any) -> dict[str, Tensor]:
    """What frequencies are divided by, where llama.cpp wants that as tensors."""
    scaling, rope = dict(config.rope_scaling), config.ropes().get("global")
    if scaling.get("rope_type") == "llama3":
        return {"rope_freqs.weight": base_frequencies(rope) / llama3(rope, 0)[0]}
    if scaling.get("rope_type") == "longrope":
        sizes = ("long", "short")
        return {
            f"rope_factors_{s}.weight": torch.tensor(scaling[f"{s}_factor"]).float() for s in sizes
        }
    return {}


def add(writer: Any, key: str, value: Any) -> None:
    """A value as the type that llama.cpp expects of it."""
    from gguf import GGUFValueType as T

    of = {bool: T.BOOL, int: T.UINT32, float: T.FLOAT32, str: T.STRING}
    if isinstance(value, list):
        inner = T.INT32 if isinstance(value[0], int) else of[type(value[0])]
        writer.add_key_value(key, value, T.ARRAY, inner)
    else:
        writer.add_key_value(key, value, of[type(value)])


# Tensors.


def plan(network: Decoder, kind: str) -> list[Planned]:
    """The tensors of the file, in the order of ours."""
    groups = dict[str, list[str]]()
    for ours in network.state_dict():
        tied = ours == "lm_head.weight" and network.config.tie_word_embeddings
        if not tied and not ours.endswith(".scale"):
            groups.setdefault(file_name(ours, network.config), []).append(ours)
    with torch.device("meta"):
        wanted = kinds_for(build(network.config), 4) if kind == "q4_k_m" else {}
    found = []
    for name, group in groups.items():
        shapes = [shape_of(network, ours) for ours in group]
        shape = (len(group), *shapes[0]) if "_exps" in name else shapes[0]
        if "_exps" not in name and len(group) > 1:
            shape = (sum(each[0] for each in shapes), *shapes[0][1:])
        kinds = [kind_of(network, ours, wanted, kind) for ours in group]
        found.append(Planned(name, tuple(group), shape, fitting(name, shape, kinds)))
    return found


def packed_at(network: Decoder, ours: str) -> QuantLinear | None:
    """The packed layer that a weight of ours is of, if it is."""
    layer, _, leaf = ours.rpartition(".")
    module = network.get_submodule(layer)
    return module if leaf == "weight" and isinstance(module, QuantLinear) else None


def shape_of(network: Decoder, ours: str) -> tuple[int, ...]:
    if module := packed_at(network, ours):
        return module.out_features, module.in_features
    return tuple(network.state_dict()[ours].shape)


def kind_of(network: Decoder, ours: str, wanted: dict[str, str], kind: str) -> str:
    """The type that is asked for of one of our tensors."""
    layer = ours.rpartition(".")[0]
    if kind == "q4_k_m":
        tied = layer == "embed_tokens" and layer not in wanted
        return wanted.get("lm_head" if tied else layer, "f16")
    if kind != "auto":
        return kind
    if module := packed_at(network, ours):
        return PACKED.get(module.kind, module.kind)
    return "bf16" if network.state_dict()[ours].dtype == torch.bfloat16 else "f16"


def fitting(name: str, shape: tuple[int, ...], kinds: list[str]) -> str:
    """The type of a tensor that is made of several: the largest of theirs. Vectors, routers and
    learned positions stay in fp32, as llama.cpp keeps them; rows that are not whole blocks are of
    16 bits."""
    if len(shape) == 1 or name.endswith(("ffn_gate_inp.weight", "position_embd.weight")):
        return "f32"
    sizes = {kind: (weights, size) for kind, weights, size in gguf_file.TYPES.values()}
    kinds = [PACKED.get(kind, kind) for kind in kinds]
    kind = max(kinds, key=lambda kind: sizes[kind][1] / sizes[kind][0])
    return "f16" if shape[-1] % sizes[kind][0] else kind


def file_name(ours: str, config: Any) -> str:
    """llama.cpp's name of one of our tensors, or of that which it becomes a part of."""
    stem, _, leaf = ours.rpartition(".")
    inside = re.fullmatch(r"layers\.(\d+)\.(.+)", stem)
    if not inside:
        return f"{next(name for name, own in TOP.items() if own == stem)}.{leaf}"
    block, part = f"blk.{inside[1]}", inside[2]
    if expert := re.fullmatch(r"mlp\.experts\.\d+\.(\w+)_proj", part):
        return f"{block}.ffn_{expert[1]}_exps.{leaf}"
    if part in FUSED["attn_qkv"] and config.model_type in WHOLE_QKV:
        return f"{block}.attn_qkv.{leaf}"
    if part in FUSED["ffn_up"] and config.model_type == "phi3":
        return f"{block}.ffn_up.{leaf}"
    post_normed = config.model_type in ("gemma2", "gemma3_text", "olmo2")
    if part == "pre_feedforward_layernorm" or (
        part == "post_attention_layernorm" and not post_normed
    ):
        return f"{block}.ffn_norm.{leaf}"
    return f"{block}.{next(name for name, own in LAYER.items() if own == part)}.{leaf}"


def declare(writer: Any, each: Planned) -> None:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    kind = GGMLQuantizationType[each.kind.upper()]
    weights, size = GGML_QUANT_SIZES[kind]
    rows = (*each.shape[:-1], each.shape[-1] // weights * size)
    total = torch.Size(rows).numel()
    encoding = np.dtype({"f32": "float32", "f16": "float16"}.get(each.kind, "uint8"))
    shape = rows if encoding == np.uint8 else each.shape
    writer.add_tensor_info(each.name, shape, encoding, total, raw_dtype=kind)


def encoded(network: Decoder, each: Planned) -> Tensor:
    """The tensor in its type: floating point as such, else blocks, uint8 (..., bytes of a row)."""
    modules = [packed_at(network, ours) for ours in each.ours]
    if each.kind in KINDS and all(module and module.kind == each.kind for module in modules):
        return joined(each, [module.weight for module in modules if module], network.config)
    whole = joined(each, [values(network, ours) for ours in each.ours], network.config)
    if each.kind in KINDS:
        return to_blocks(whole.flatten(0, -2), each.kind).unflatten(0, whole.shape[:-1])
    found = whole.to(gguf_file.PLAIN[each.kind])
    if not found.isfinite().all():
        raise DaedalError(
            f"{', '.join(each.ours)} has values that {each.kind} cannot hold; write the file as bf16 or f32."
        )
    return found.view(torch.uint8) if each.kind == "bf16" else found


def values(network: Decoder, ours: str) -> Tensor:
    module = packed_at(network, ours)
    found = module.dequantized() if module else network.state_dict()[ours]
    return found.detach().cpu().float()


def joined(each: Planned, parts: list[Tensor], config: Any) -> Tensor:
    """Tensors of ours as llama.cpp computes with them; rows of blocks are moved whole."""
    parts = [converted(part, ours, config) for part, ours in zip(parts, each.ours, strict=True)]
    return (torch.stack(parts) if "_exps" in each.name else torch.cat(parts)).contiguous()


def converted(tensor: Tensor, ours: str, config: Any) -> Tensor:
    heads = {".q_proj.": config.num_attention_heads, ".k_proj.": config.num_key_value_heads}
    if config.model_type in (*INTERLEAVED, "mistral"):
        for part, count in heads.items():
            if part in ours:
                return tensor[halves(len(tensor), count).argsort()]
    added = shift(config, ours.rpartition(".")[0])
    return tensor + added if added else tensor


# Whether the file says the same.


def check(path: Path, config: Any) -> None:
    """An error if a reader of the file takes the model for another."""
    again = config_from_dict(config_of(gguf_file.read(path)))
    for what, ours, theirs in differences(config, again):
        raise DaedalError(
            f"a GGUF file cannot say {what} of this {config.architecture}: it has {ours}, and readers take it for {theirs}; keep it as a folder."
        )


def differences(config: Any, again: Any) -> Iterator[tuple[str, Any, Any]]:
    names = {field.name for field in fields(again)} - set(UNCOMPARED) - set(again.absent)
    for name in sorted(names):
        ours, theirs = getattr(config, name, None), getattr(again, name)
        if ours is not None and ours != theirs:
            yield name, ours, theirs
    if windows(config) != windows(again):
        yield "the sliding window", windows(config), windows(again)
    for name, rope in config.ropes().items():
        if not same_turns(rope, again.ropes()[name]):
            yield "rope_scaling", dict(rope.scaling), dict(again.ropes()[name].scaling)


def same_turns(ours: Rope, theirs: Rope) -> bool:
    """Whether two ropes turn alike, in short texts and in long ones."""
    for length in (1, 1 << 20):
        (a, scale), (b, other) = frequencies(ours, length), frequencies(theirs, length)
        if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-4) or abs(scale - other) > 1e-4:
            return False
    return True
