"""The house's media transformer of clips behind the video pipeline."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daedal import checkpoints
from daedal.data.tokenizer import Tokenizer
from daedal.media.video import Track
from daedal.networks.media import MediaTransformer
from daedal.pipelines.painter import generation_config
from daedal.processes.imaging import from_pixels, pixels
from daedal.processes.prompts import remark
from daedal.processes.samplers import Steps, sampler_named
from daedal.systems.house_media import encode, flow_levels, painting

WORD = re.compile(r"[a-z]+")
PIECE = 7919  # what seeds of the pieces of a long clip are apart


@dataclass(frozen=True)
class Shot:
    """What a model is asked for, checked and complete. `front` (K, H, W, 3) uint8 are the frames that
    the clip begins with, `end` (1, H, W, 3) the one it ends with; `frames` counts both."""

    prompt: str
    negative: str
    seeds: list[int]
    frames: int
    rate: float
    height: int
    width: int
    steps: int
    guidance_scale: float
    sampler: str
    front: np.ndarray | None = None
    end: np.ndarray | None = None
    loop: bool = False
    sound: Track | None = None  # of its length; no model hears it
    loras: tuple[tuple[Path, float], ...] = ()  # (file, scale)


class HouseFilmer:
    """The house's media transformer of clips."""

    takes = frozenset({"init", "last", "extend", "loop"})
    needs = frozenset[str]()
    takes_lora = False

    def __init__(
        self, network: MediaTransformer, tokenizer: Tokenizer, settings: dict[str, Any]
    ) -> None:
        self.network, self.tokenizer, c = network, tokenizer, network.config
        self.multiple, self.most = network.codec.side, c.frames
        self.shift, self.words = settings.pop("shift", 1.0), frozenset(settings.pop("words", ()))
        size: dict[str, Any] = {
            "width": c.sample_size,
            "height": c.sample_size,
            "fps": float(c.frame_rate),
        }
        plain = {"steps": 20, "guidance_scale": 3.0, "sampler": "euler"}
        self.defaults = size | plain | settings

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> "HouseFilmer":
        network = checkpoints.load(
            folder, dtype=torch.float32, device=device, kind=MediaTransformer
        )
        network.compute_dtype = None if dtype == torch.float32 else dtype
        return cls(network, Tokenizer.load(folder), generation_config(folder))

    def legal(self, frames: int, known: int = 0) -> int:
        """The nearest number of frames that it can make behind so many that are known."""
        return frames

    def make(self, shot: Shot) -> Steps:
        """Steps that return clips (B, F, 3, H, W) in [-1, 1], in pieces of what the network makes at
        once: each piece goes on from the last half of what there is."""
        made = self.given(shot.front, shot)
        end = self.given(shot.end, shot)
        total = shot.frames
        if shot.loop:
            if not made.shape[1]:
                made = yield from self.piece(shot, made, made, 1, 0)
            end, total = made[:, :1], total + 1
        number = 1
        while made.shape[1] < total:
            known = made[:, -(self.most // 2) :]
            count = min(self.most, known.shape[1] + total - made.shape[1])
            ends = made.shape[1] - known.shape[1] + count == total
            piece = yield from self.piece(shot, known, end if ends else end[:, :0], count, number)
            made, number = torch.cat([made, piece[:, known.shape[1] :]], 1), number + 1
        return made[:, : shot.frames]

    def given(self, frames: np.ndarray | None, shot: Shot) -> Tensor:
        """(B, K, 3, H, W) in [-1, 1], of no frames too."""
        if frames is None:
            return torch.empty(len(shot.seeds), 0, 3, shot.height, shot.width)
        pictures = torch.stack([from_pixels(f)[0] for f in frames])
        return pictures.expand(len(shot.seeds), -1, -1, -1, -1)

    def piece(self, shot: Shot, known: Tensor, end: Tensor, count: int, number: int) -> Steps:
        """`count` frames that begin with those known and end with `end`."""
        size = (count, shot.height, shot.width)
        start = torch.zeros(len(shot.seeds), count, 3, shot.height, shot.width)
        kept = torch.zeros(count, dtype=torch.bool)
        if known.shape[1]:
            start[:, : known.shape[1]], kept[: known.shape[1]] = known, True
        if end.shape[1]:
            start[:, -1:], kept[-1] = end, True
        places = kept.repeat_interleave(self.network.codec.count(1, shot.height, shot.width))
        tokens = encode(self.network, self.tokenizer, [shot.prompt] * len(shot.seeds))
        negative = encode(self.network, self.tokenizer, [shot.negative] * len(shot.seeds))
        seeds = [seed + PIECE * (number - 1) if number > 1 else seed for seed in shot.seeds]
        steps = painting(
            self.network, tokens, negative, seeds, flow_levels(shot.steps, self.shift), guidance_scale=shot.guidance_scale,
            sampler=sampler_named(shot.sampler), size=size, rate=shot.rate,
            start=start if kept.any() else None, kept=places if kept.any() else None,
        )  # fmt: skip
        before = max(number - 1, 0) * shot.steps
        while True:
            try:
                state = next(steps)
            except StopIteration as done:
                made: Tensor = done.value
                return made.clamp(-1, 1).cpu()
            yield None if state is None else (before + state[0], *state[1:])

    def total(self, shot: Shot) -> int:
        """Steps of all pieces."""
        have = 0 if shot.front is None else len(shot.front)
        count, have = 0, max(have, int(shot.loop))
        while have < shot.frames + shot.loop:
            known = min(have, self.most // 2)
            have, count = have + min(self.most - known, shot.frames + shot.loop - have), count + 1
        return shot.steps * count

    def preview(self, x0: Tensor, shot: Shot) -> np.ndarray:
        """A frame of the estimate x0 within a step, (B, h, w, 3) uint8."""
        size = shot.height, shot.width
        frames = x0.shape[1] // self.network.codec.count(1, *size)
        return pixels(self.network.codec.decode(x0, frames, *size)[:, frames // 2])

    def remark(self, prompt: str) -> str:
        """What the model does not know of a prompt."""
        unknown = [w for w in WORD.findall(prompt.lower()) if self.words and w not in self.words]
        if unknown:
            listed = ", ".join(dict.fromkeys(unknown))
            return f"this model was never trained on the words {listed}; it may not follow them."
        return remark(prompt, [self.tokenizer], self.network.config.text_length)
