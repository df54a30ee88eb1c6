"""How open image models read prompts: CLIP in chunks of its length, T5 in one piece, both with
weights (daedal.processes.prompts).

Legend: B prompts, T tokens, D width, P width of the pooled state."""

from pathlib import Path
from typing import Any

import torch
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
        """The states of a layer (B, chunks * length, D), -1 the last one behind its norm, and the
        pooled state of the first chunk (B, P)."""
        made = chunked(self.tokenizer, prompts, self.length, chunks)
        features = self.tower(made.ids.flatten(0, 1).to(device_of(self.tower)))
        states = features.last if layer == -1 else features.hidden[layer]
        states = states.unflatten(0, made.ids.shape[:2]).flatten(1, 2)
        return apply_weights(states, made.weights.flatten(1)), features.pooled.unflatten(
            0, made.ids.shape[:2]
        )[:, 0]


class T5:
    """A T5 encoder and its tokenizer. Its positions are relative, so a prompt longer than the
    length that the image model was trained with is read to its end as well."""

    def __init__(self, parts: dict[str, Any], suffix: str = "") -> None:
        self.encoder = parts[f"text_encoder{suffix}"]
        self.tokenizer = load_tokenizer(parts[f"tokenizer{suffix}"])

    def read(
        self,
        prompts: list[str],
        length: int,
        masked: bool,
        cut: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The states of all prompts (B, T, D), T at least `length`, or `cut` to it, and which
        tokens exist (B, T). With `masked` T5 does not see padding; SD3 and FLUX were trained with a
        T5 that does."""
        tokenizer, device = self.tokenizer, device_of(self.encoder)
        rows = [
            [
                (i, weight)
                for text, weight in weighted(p)
                for i in tokenizer.encode(text, add_bos=False)
            ]
            for p in prompts
        ]
        rows = [[*row, (tokenizer.eos_id or 0, 1.0)] for row in rows]
        most = max(length, *(len(row) for row in rows))
        mask = torch.tensor([[True] * len(row) + [False] * (most - len(row)) for row in rows]).to(
            device
        )
        rows = [[*row, *[(tokenizer.pad_id, 1.0)] * (most - len(row))] for row in rows]
        ids = torch.tensor([[i for i, _ in row] for row in rows]).to(device)
        states = self.encoder(ids, mask if masked else None)
        states = apply_weights(
            states, torch.tensor([[weight for _, weight in row] for row in rows])
        )
        return (states[:, :length], mask[:, :length]) if cut else (states, mask)


def clip_text(
    towers: list[Clip], prompts: list[str], layer: int, cut: bool
) -> tuple[Tensor, list[Tensor]]:
    """The states of all towers side by side (B, chunks * length, D), and the pooled state of each.
    Prompts are read to their end, or `cut` after one chunk."""
    chunks = max(clip.chunks(prompts) for clip in towers)
    read = [clip.read(prompts, chunks, layer) for clip in towers]
    states = torch.cat([states for states, _ in read], -1)
    return states[:, : towers[0].length] if cut else states, [pooled for _, pooled in read]


def load_tokenizer(folder: Path | Tokenizer) -> Tokenizer:
    """A component's tokenizer; T5's folders may hold the SentencePiece file alone. Padding is ours
    to add."""
    if isinstance(folder, Tokenizer):
        return folder
    alone = folder / "spiece.model"
    tokenizer = Tokenizer.load(
        alone if alone.exists() and not (folder / "tokenizer.json").exists() else folder
    )
    tokenizer.backend.no_padding()
    tokenizer.backend.no_truncation()
    return tokenizer


def device_of(module: Any) -> torch.device:
    return next(iter(module.parameters())).device
