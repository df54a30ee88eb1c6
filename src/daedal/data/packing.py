"""Documents to rows of exactly T+1 tokens: best fit, every token used once, resumable.

A buffer of tokenised documents feeds each row: the oldest opens it (so no length waits for long),
then the longest that still fits goes in; when none fits, the longest is cut to fill the row. What
is cut off goes back to the buffer. (Dropping it, as is common, costs a third of a small corpus;
opening rows with the longest instead of the oldest feeds short documents first and long ones last.)
"""

import random
from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from daedal.data import infill
from daedal.data.documents import Mixture, Source
from daedal.data.tokenizer import Tokenizer


class PackedRows:
    """Endless batches (rows, length + 1) int64; each document is bos, its tokens, eos."""

    def __init__(
        self,
        sources: list[Source],
        tokenizer: Tokenizer,
        rows: int,
        length: int,
        seed: int = 0,
        buffer: int = 256,
        fim: float = 0.0,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.mixture = Mixture(sources, seed, state and state["mixture"])
        self.fim, self.seed = fim, seed  # the share of documents whose middle goes to their end
        self.texts = iter(self.mixture)
        self.tokenizer, self.rows, self.length, self.size = tokenizer, rows, length + 1, buffer
        self.buffer: list[tuple[int, int, list[int]]] = []  # (tokens, serial number, ids), sorted
        self.serial = 0
        if state:
            lists = torch.split(state["tokens"], state["sizes"].tolist())
            self.buffer = [
                (len(ids), int(n), ids.tolist())
                for n, ids in zip(state["serials"], lists, strict=True)
            ]
            self.serial = state["serial"]

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield torch.tensor([self.row() for _ in range(self.rows)])

    def row(self) -> list[int]:
        self.fill()
        out = self.take(min(range(len(self.buffer)), key=lambda i: self.buffer[i][1]), self.length)
        while (space := self.length - len(out)) > 0:
            self.fill()
            out += self.take(bisect_right(self.buffer, space, key=lambda item: item[0]) - 1, space)
        return out

    def take(self, at: int, space: int) -> list[int]:
        """The document at index `at` of the buffer (-1: the longest), or as much of it as fits."""
        _, serial, ids = self.buffer.pop(at)
        if len(ids) > space:
            # keeps its age, so it opens the next row
            insort(self.buffer, (len(ids) - space, serial, ids[space:]))
        return ids[:space]

    def fill(self) -> None:
        while len(self.buffer) < self.size:
            texts = [next(self.texts) for _ in range(min(64, self.size - len(self.buffer)))]
            plain = self.tokenizer.encode_batch(texts, add_bos=False)
            for text, ids in zip(texts, plain, strict=True):
                self.serial += 1
                if self.fim:
                    draw = random.Random(f"fim/{self.seed}/{self.serial}")
                    moved = draw.random() < self.fim
                    ids = infill.transformed(self.tokenizer, text, draw) if moved else ids
                insort(
                    self.buffer,
                    (
                        len(ids) + 2,
                        self.serial,
                        [self.tokenizer.bos_id, *ids, self.tokenizer.eos_ids[0]],
                    ),
                )

    def state(self) -> dict[str, Any]:
        """All that the next batches depend on: tensors, integers and floats only."""
        ids = [item[2] for item in self.buffer]
        return {
            "mixture": self.mixture.state(),
            "tokens": torch.tensor([t for row in ids for t in row], dtype=torch.int32),
            "sizes": torch.tensor([len(row) for row in ids]),
            "serials": torch.tensor([item[1] for item in self.buffer]),
            "serial": self.serial,
        }
