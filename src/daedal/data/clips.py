"""Captioned clips for training: generated motion, mixed with still pictures.

A sample depends on (seed, number) only, so a run resumes by its step. A batch is of one kind: clips
of so many frames at one rate, or pictures as clips of one frame, which cost a sixteenth and keep what
things look like in many wordings."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daedal.data.pictures import DrawnBatches, Weighted, encode_captions
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError, nearest
from daedal.worlds import motion

# Of the clips of a step: frames, frames a second, share of the steps.
Shape = tuple[int, float, float]


class Moving:
    """`daedal.worlds.motion`: all of it, or one of its kinds, or "unseen", colours and shapes never
    paired in training."""

    def __init__(self, side: int, only: str = "") -> None:
        if only not in (some := ["unseen", *motion.KINDS, ""]):
            raise DaedalError(
                f"motion:{only} is not a kind of clip{nearest(only, some)}; there are {', '.join('motion:' + k for k in some[:-1])}."
            )
        self.side, self.only = side, only

    def sample(self, rng: random.Random) -> tuple[np.ndarray, str]:
        """A moment of a clip, as a picture, and its caption: the words of a tokenizer."""
        clip, caption = self.clip(rng, 1, motion.RATE)
        return clip[0], caption

    def clip(self, rng: random.Random, count: int, rate: float) -> tuple[np.ndarray, str]:
        """(count, side, side, 3) uint8 at `rate` frames a second, and the caption."""
        unseen = self.only == "unseen"
        made = motion.clip(rng, unseen, None if unseen else self.only or None)
        return motion.frames(made, count, rate, self.side), made.caption


class ClipBatches(DrawnBatches):
    """Batches {"clips": (B, F, 3, H, W) uint8, "captions": (B, L) int64, "rate": (B,)}. Of the steps,
    `stills` are pictures, and the others clips of one of the `shapes`; `drop` of the captions are
    empty."""

    def __init__(
        self,
        sources: Sequence[Weighted],
        tokenizer: Tokenizer,
        rows: int,
        length: int,
        seed: int,
        drop: float = 0.0,
        stills: float = 0.0,
        shapes: Sequence[Shape] = ((motion.FRAMES, motion.RATE, 1.0),),
        step: int = 0,
    ) -> None:
        super().__init__(sources, rows, seed, step)
        self.shapes = shapes
        self.moving = [(s, w) for s, w in sources if isinstance(s, Moving)]
        self.pictures = [(s, w) for s, w in sources if not isinstance(s, Moving)]
        if not self.moving:
            raise DaedalError("data.train has no clips; add {path: motion}.")
        self.tokenizer, self.length, self.drop, self.stills = tokenizer, length, drop, stills

    def batch(self, step: int) -> dict[str, Tensor]:
        rng = random.Random(f"{self.seed}/{step}")
        if self.pictures and rng.random() < self.stills:
            stills = (self.drawn(rng, self.pictures).sample(rng) for _ in range(self.rows))
            rate, drawn = 1.0, [(picture[None], caption) for picture, caption in stills]
        else:
            count, rate, _ = rng.choices(self.shapes, [share for *_, share in self.shapes])[0]
            drawn = [self.drawn(rng, self.moving).clip(rng, count, rate) for _ in range(self.rows)]
        captions = ["" if rng.random() < self.drop else caption for _, caption in drawn]
        clips = torch.from_numpy(np.stack([clip for clip, _ in drawn])).permute(0, 1, 4, 2, 3)
        tokens = encode_captions(self.tokenizer, captions, self.length)
        return {"clips": clips, "captions": tokens, "rate": torch.full((self.rows,), rate)}

    def drawn(self, rng: random.Random, some: list[Weighted]) -> Any:
        """One of some sources, by weight."""
        return rng.choices([s for s, _ in some], [w for _, w in some])[0]
