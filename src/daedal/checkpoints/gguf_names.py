"""From the tensors of a GGUF file to ours: one table of names for every family, and what llama.cpp's
converter does to values, undone by choosing rows, so that quantised blocks stay as they are.

Legend: N outputs, K inputs, H heads, E experts.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from daedal.checkpoints.gguf_file import PLAIN, Entry, File, dense
from daedal.networks import config_from_dict

# llama.cpp's name of a layer -> ours.
TOP = {
    "token_embd": "embed_tokens",
    "position_embd": "embed_positions",
    "output_norm": "norm",
    "output": "lm_head",
}
LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_gate_inp": "mlp.gate",
    "post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
}  # fmt: skip
FUSED = {
    "attn_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "ffn_up": ("mlp.gate_proj", "mlp.up_proj"),  # where there is no ffn_gate
}
# Experts: one tensor of all, or in files of 2023 one each.
EXPERTS = re.compile(r"ffn_(gate|up|down)(?:_exps|\.(\d+))")
CONSTANTS = re.compile(r"rope_(freqs|factors_long|factors_short)\.weight|.*\.attn_rot_embd\.weight")
INTERLEAVED = ("llama", "mixtral", "smollm3")  # rotate channels (2i, 2i+1) in llama.cpp
SHIFTED = ("gemma2", "gemma3_text")  # norms are stored as 1 + weight


@dataclass(frozen=True)
class Source:
    """Where one of our tensors is: a tensor of the file; the rows [first, last) of it; an expert's
    share; of H heads whose rows lie interleaved; and a constant that was added."""

    name: str
    rows: tuple[int, int] | None = None
    expert: int | None = None
    heads: int = 0
    added: float = 0.0

    def raw(self, file: File) -> Tensor:
        """The bytes of the rows of a matrix, uint8 (N, bytes of a row)."""
        data = file.raw(self.name)
        return self.chosen(data if self.expert is None else data[self.expert])

    def values(self, file: File) -> Tensor:
        """The tensor in floating point. One of a single axis is one row in the file."""
        entry = file.entries[self.name]
        if len(entry.shape) == 1:
            found = self.chosen(dense(file.raw(self.name), entry.kind))
        else:
            found = dense(self.raw(file), entry.kind)
        return found - self.added if self.added else found

    def chosen(self, data: Tensor) -> Tensor:
        data = data if self.rows is None else data[slice(*self.rows)]
        return data[halves(len(data), self.heads)] if self.heads else data


def halves(rows: int, heads: int) -> Tensor:
    """Which row of an interleaved matrix each of ours is: (H, K/2, 2) -> (H, 2, K/2)."""
    return torch.arange(rows).view(heads, -1, 2).transpose(1, 2).flatten()


def layout(file: File, raw: dict[str, Any]) -> dict[str, Source]:
    """Our name of a tensor -> where it is; those that nothing is known of keep their name, and are
    unmatched when they are loaded."""
    config, found = config_from_dict(raw), dict[str, Source]()
    for name, entry in file.entries.items():
        if not CONSTANTS.fullmatch(name):
            found |= dict(sources(name, entry, file, config))
    return found


def sources(name: str, entry: Entry, file: File, config: Any) -> Iterator[tuple[str, Source]]:
    """(our name, source) of each of our tensors that a tensor of the file holds."""
    stem, _, leaf = name.rpartition(".")
    if not (split := re.fullmatch(r"blk\.(\d+)\.(.+)", stem)):
        ours = TOP.get(stem, stem)
        yield f"{ours}.{leaf}", Source(name, added=shift(config, ours))
        return
    prefix, part = f"layers.{split[1]}", split[2]
    if expert := EXPERTS.fullmatch(part):
        alone = [(expert[2], None)]
        for index, share in [(i, i) for i in range(entry.shape[0])] if not expert[2] else alone:
            ours = f"mlp.experts.{index}.{expert[1]}_proj"
            yield f"{prefix}.{ours}.{leaf}", Source(name, expert=share)
    elif together := fused(part, f"blk.{split[1]}", file):
        first = 0
        for each, rows in zip(together, rows_of(part, entry, config), strict=True):
            yield f"{prefix}.{each}.{leaf}", Source(name, (first, first + rows))
            first += rows
    else:
        ours = layer_name(part, f"blk.{split[1]}", file)
        heads, added = interleaved_heads(part, config), shift(config, ours)
        yield f"{prefix}.{ours}.{leaf}", Source(name, heads=heads, added=added)


def fused(part: str, block: str, file: File) -> tuple[str, ...]:
    """Which of our layers one of the file's is, if several."""
    gated = f"{block}.ffn_gate.weight" in file.entries
    alone = part == "ffn_up" and (gated or file.metadata["general.architecture"] != "phi3")
    return () if alone else FUSED.get(part, ())


def rows_of(part: str, entry: Entry, config: Any) -> list[int]:
    if part == "ffn_up":
        return [entry.shape[0] // 2] * 2
    queries, keys = config.num_attention_heads, config.num_key_value_heads
    return [heads * config.head_dim for heads in (queries, keys, keys)]


def layer_name(part: str, block: str, file: File) -> str:
    """Our name of a layer. The norm before the feed-forward has another one where the attention is
    followed by a norm too."""
    if part == "ffn_norm":
        both = f"{block}.post_attention_norm.weight" in file.entries
        return "pre_feedforward_layernorm" if both else "post_attention_layernorm"
    return LAYER.get(part, part)


def interleaved_heads(part: str, config: Any) -> int:
    if config.model_type not in INTERLEAVED:
        return 0
    return {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(part, 0)


def shift(config: Any, ours: str) -> float:
    return float(config.model_type in SHIFTED and ours.endswith("norm"))


# Quantised matrices stay as they are.


def kinds(file: File, raw: dict[str, Any]) -> dict[str, str]:
    """Our name of each layer that stays packed -> its kind; none if no tensor is in blocks."""
    if not quantised(file):
        return {}
    found = dict[str, str]()
    for ours, source in layout(file, raw).items():
        entry, layer = file.entries[source.name], ours.removesuffix(".weight")
        rows = ours.endswith(".weight") and len(entry.shape) > 1 and entry.shape[-1] % 32 == 0
        if rows and layer != "embed_positions" and entry.kind not in ("f32", "f16"):
            found[layer] = entry.kind
    return found


def quantised(file: File) -> bool:
    return any(entry.kind not in PLAIN for entry in file.entries.values())


def stream(file: File, raw: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """(our name, tensor) of everything in a file; the rest of a packed network is in fp32."""
    packed = kinds(file, raw)
    for ours, source in layout(file, raw).items():
        if kind := packed.get(ours.removesuffix(".weight")):
            rows = source.raw(file)
            yield ours, dense(rows, kind) if kind == "bf16" else rows
        else:
            yield ours, source.values(file).float() if packed else source.values(file)
