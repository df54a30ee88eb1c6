"""The watermark of texts (Kirchenbauer et al. 2023, "A Watermark for Large Language Models"): a hash
of a key and the previous token makes a quarter of the vocabulary green, and green tokens get a
little more. Who has the key counts more green tokens in such a text than chance gives.

    mark = GreenList(key, strength=2.0)
    logits = mark(logits, previous)          # before temperature and truncation
    mark.green([3, 7], [7, 12])              # whether 7 after 3, and 12 after 7, are green

Each pair of tokens is hashed alone, so the list's size is a quarter only in the mean; a detector in
return hashes the pairs of a text and no vocabulary. Seeded by one token the mark survives cuts and
small edits; who collects much marked text can learn frequent pairs.

Legend: N pairs of tokens, V vocabulary."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from daedal.errors import DaedalError
from daedal.processes.sampling import uniform

GAMMA = 0.25  # share of green tokens; the paper's choice with strength 2
KEY_BYTES = 32
KEY_FILE = "watermark.key"


def new_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


@dataclass(frozen=True)
class GreenList:
    """A key (32 bytes) and what is added to the logits of green tokens."""

    key: bytes = field(repr=False)
    strength: float = 2.0

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise DaedalError(
                f"the watermark's key has {len(self.key)} bytes in place of {KEY_BYTES}; put its copy back, or delete {KEY_FILE} and lose the old marks."
            )

    def __call__(self, logits: Tensor, previous: int) -> Tensor:
        """Logits (V,) with `strength` added where a token is green after `previous`."""
        ids = torch.arange(logits.shape[-1])[None]  # (1, V)
        green = uniform([self._seed(previous)], ids)[0] < GAMMA
        return logits + green.to(logits.device, logits.dtype) * self.strength

    def green(self, previous: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Whether each token is green after the one before it, (N,) bool."""
        seeds = {token: self._seed(token) for token in set(previous)}
        ids = torch.tensor(tokens, dtype=torch.long)[:, None]  # (N, 1)
        return uniform([seeds[token] for token in previous], ids)[:, 0] < GAMMA

    def _seed(self, previous: int) -> int:
        named = previous.to_bytes(8, "little")
        return int.from_bytes(
            hashlib.blake2b(named, digest_size=8, key=self.key).digest(), "little"
        )
