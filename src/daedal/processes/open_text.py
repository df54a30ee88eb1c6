"""How open image models read prompts: CLIP in chunks of 77 tokens, T5 in one piece, both with weights (daedal.processes.prompts).

Legend: B prompts, T tokens, D width, P width of the pooled state.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.data.tokenizer import Tokenizer
from daedal.processes.prompts import apply_weights, chunked, weighted


class Clip:
    """A CLIP tower and its tokenizer; `suffix` says which of a folder's, "" or "_2"."""

    def __init__(self, parts: dict[str, Any], suffix: str = "") -> None:
        self.role = f"text_encoder{suffix}"
        self.tower, self.tokenizer = parts[self.role], load_tokenizer(parts[f"tokenizer{suffix}"])
        self.length = self.tower.config.max_position_embeddings

    def chunks(self, prompts: list[str]) -> int:
        """How many pieces the longest prompt needs."""
        return chunked(self.tokenizer, prompts, self.length).ids.shape[1]

    def read(self, prompts: list[str], chunks: int, layer: int = -2) -> tuple[Tensor, Tensor]:
        """The states of a layer (B, chunks * 77, D), -1 the last one behind its norm, and the pooled state of the first chunk (B, P)."""
        made = chunked(self.tokenizer, prompts, self.length, chunks)
        features = self.tower(made.ids.flatten(0, 1).to(device_of(self.tower)))
        states = features.last if layer == -1 else features.hidden[layer]
        states = states.unflatten(0, made.ids.shape[:2]).flatten(1, 2)
        return apply_weights(states, made.weights.flatten(1)), features.pooled.unflatten(0, made.ids.shape[:2])[:, 0]


class T5:
    """A T5 encoder and its tokenizer. Its positions are relative, so a prompt longer than the length that the image model was trained with
    is read to its end as well."""

    def __init__(self, parts: dict[str, Any], suffix: str = "") -> None:
        self.encoder, self.tokenizer = parts[f"text_encoder{suffix}"], load_tokenizer(parts[f"tokenizer{suffix}"])

    def read(self, prompts: list[str], length: int, masked: bool) -> tuple[Tensor, Tensor]:
        """The states of all prompts (B, T, D), T at least `length`, and which tokens exist (B, T). With `masked` T5 does not see padding;
        SD3 and FLUX were trained with a T5 that does."""
        rows = [[(i, weight) for text, weight in weighted(prompt) for i in self.tokenizer.encode(text, add_bos=False)] for prompt in prompts]
        rows = [[*row, (self.tokenizer.eos_id or 0, 1.0)] for row in rows]
        length = max(length, *(len(row) for row in rows))
        mask = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])
        rows = [[*row, *[(self.tokenizer.pad_id, 1.0)] * (length - len(row))] for row in rows]
        ids, mask = torch.tensor([[i for i, _ in row] for row in rows]), mask.to(device_of(self.encoder))
        states = self.encoder(ids.to(mask.device), mask if masked else None)
        return apply_weights(states, torch.tensor([[weight for _, weight in row] for row in rows])), mask


# What each family of networks is told of prompts.


def clip_text(towers: list[Clip], prompts: list[str], layer: int, most: int | None) -> tuple[Tensor, list[Tensor]]:
    """The states of all towers side by side (B, chunks * 77, D), and the pooled state of each. Prompts are read to their end, or cut after
    `most` chunks."""
    chunks = max(clip.chunks(prompts) for clip in towers)
    read = [clip.read(prompts, chunks, layer) for clip in towers]
    states = torch.cat([states for states, _ in read], -1)
    return states if most is None else states[:, : most * towers[0].length], [pooled for _, pooled in read]


def unet_text(towers: list[Clip], prompts: list[str], xl: bool, most: int | None = None) -> tuple[Tensor, Tensor]:
    """Stable Diffusion: the last states of one tower, or XL's last but one of all towers, and the pooled state of the last tower (B, P)."""
    states, pooled = clip_text(towers, prompts, -2 if xl else -1, most)
    return states, pooled[-1]


def sd3_text(towers: list[Clip], t5: T5 | None, prompts: list[str], width: int, most: int | None = None) -> dict[str, Tensor]:
    """Stable Diffusion 3: the towers' states padded to the width of T5, whose tokens come behind them."""
    words, pooled = clip_text(towers, prompts, -2, most)
    words = F.pad(words, (0, width - words.shape[-1]))
    more = words.new_zeros(len(words), 256, words.shape[2]) if t5 is None else t5.read(prompts, 256, masked=False)[0]
    return {"text": torch.cat([words, more], 1), "pooled": torch.cat(pooled, -1)}


def flux_text(clip: Clip, t5: T5, prompts: list[str], length: int) -> dict[str, Tensor]:
    """FLUX: T5's states, and the pooled state of CLIP."""
    return {"text": t5.read(prompts, length, masked=False)[0], "pooled": clip.read(prompts, 1)[1]}


def load_tokenizer(folder: Path | Tokenizer) -> Tokenizer:
    """A component's tokenizer; T5's folders may hold the SentencePiece file alone. Padding is ours to add."""
    if isinstance(folder, Tokenizer):
        return folder
    alone = folder / "spiece.model"
    tokenizer = Tokenizer.load(alone if alone.exists() and not (folder / "tokenizer.json").exists() else folder)
    tokenizer.backend.no_padding()
    tokenizer.backend.no_truncation()
    return tokenizer


def device_of(module: Any) -> torch.device:
    return next(module.parameters()).device
