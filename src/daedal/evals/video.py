"""How well a model of clips does what it is asked, read off its frames: `daedal eval runs/motion/model`.

Clips of `daedal.worlds.motion` are asked for by their captions and read back: the things, their
colours, where they go and how fast. Beside what the model makes stand the same instruments on the
real clips (the ceiling) and on the model's clips against other captions (chance)."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daedal.evals.measured import Measured, Report, bootstrap, lines_of, plain, share
from daedal.media import images, video
from daedal.pipelines.video_params import VideoMeasuring
from daedal.worlds import motion
from daedal.worlds.motion import Clip

KEYS = ("objects", "colours", "direction", "speed", "all")
FLOOR = 4  # brightness of a pixel that counts as flicker


def evaluate(pipeline: Any, asked: VideoMeasuring) -> Report:
    """What `daedal eval MODEL` says of a model of clips."""
    groups: dict[str, dict[str, Measured]] = {}
    rows = []
    for name, unseen in (("seen", False), ("unseen", True)):
        rng = random.Random(f"measure {name}")
        wanted = [motion.clip(rng, unseen) for _ in range(asked.n)]
        made = [frames_of(pipeline, clip, seed) for seed, clip in enumerate(wanted)]
        groups[f"{name} pairs"] = shares(wanted, made)
        if unseen:
            groups["chance"] = shares(wanted, made[1:] + made[:1])
        rows += [video.sheet(clip) for clip in made[:6]]
    for kind in motion.KINDS:
        rng = random.Random(f"measure {kind}")
        some = [motion.clip(rng, True, kind) for _ in range(max(asked.n // 2, 1))]
        groups[kind] = shares(some, [frames_of(pipeline, c, s) for s, c in enumerate(some)])
    rng = random.Random("measure unseen")
    wanted = [motion.clip(rng, True) for _ in range(asked.n)]
    groups["real"] = shares(wanted, [motion.frames(clip) for clip in wanted])
    groups["given a first frame"] = given(pipeline, asked.n)
    lines = lines_of(groups)
    if asked.sheet:
        path = images.save_image(images.grid(rows, 1, 2), Path(asked.sheet))
        lines.append(f"frames     {path}")
    return Report(plain(groups), lines)


def frames_of(pipeline: Any, clip: Clip, seed: int, **given: Any) -> np.ndarray:
    settings = {"seconds": motion.FRAMES / motion.RATE, "fps": motion.RATE, "seed": seed}
    made: np.ndarray = pipeline(clip.caption, **settings, **given).frames
    return made


def shares(wanted: Sequence[Clip], made: Sequence[np.ndarray]) -> dict[str, Measured]:
    """The shares of clips right in each respect, and pixels that a straight mover trembles."""
    right = [motion.correct(clip, frames) for clip, frames in zip(wanted, made, strict=True)]
    found = {key: share(sum(r[key] for r in right), len(right)) for key in KEYS}
    jitter = [
        motion.track(frames, mover.thing).jitter
        for clip, frames in zip(wanted, made, strict=True)
        for mover in clip.movers
        if mover.motion in ("moves", "stays") and clip.kind in ("alone", "pair", "still")
    ]
    if known := [value for value in jitter if np.isfinite(value)]:
        found["jitter, px"] = bootstrap(median, torch.tensor(known), 1000)
    return found


def median(values: torch.Tensor) -> float:
    return float(values.median())


def given(pipeline: Any, count: int) -> dict[str, Measured]:
    """Clips that go on from the first frame of a real one: as asked, and how much of the ground that
    stands still flickers."""
    rng = random.Random("measure given")
    wanted = [motion.clip(rng, True, "alone") for _ in range(count)]
    real = [motion.frames(clip) for clip in wanted]
    made = [
        frames_of(pipeline, clip, seed, init=frames[0])
        for seed, (clip, frames) in enumerate(zip(wanted, real, strict=True))
    ]
    return shares(wanted, made) | {
        "flicker": bootstrap(mean, torch.tensor([*map(flicker, made)]), 1000)
    }


def flicker(frames: np.ndarray) -> float:
    """The share of the border's pixels that change by more than FLOOR from one frame to the next."""
    edge = np.concatenate([frames[:, 0], frames[:, -1], frames[:, :, 0], frames[:, :, -1]], 1)
    steps = np.abs(np.diff(edge.astype(np.int16), axis=0)).max(-1)
    return float((steps > FLOOR).mean())


def mean(values: torch.Tensor) -> float:
    return float(values.mean())
