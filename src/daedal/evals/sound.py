"""`daedal eval` of a model of sounds: how well a CLAP hears that its sounds fit their captions, how
many are silent, how many clipped, and how long they take to make."""

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from daedal.errors import DaedalError
from daedal.evals.measured import Measured, Report, bootstrap, lines_of, plain, share
from daedal.media.sound import SILENT
from daedal.pipelines.sound import SoundPipeline
from daedal.pipelines.sound_params import SoundMeasuring
from daedal.processes.clap_scorer import ClapScorer

CAPTIONS = (
    "rain on a tin roof", "wind in the trees", "a dog barks twice", "a car engine starts", "a bell rings",
    "footsteps on gravel", "a door closes", "birds sing in the morning", "waves on a beach", "a clock ticks",
)  # fmt: skip
FULL = 0.999  # a sample from here on is clipped


def evaluate(pipeline: SoundPipeline, asked: SoundMeasuring) -> Report:
    """Shares of sounds with Wilson's intervals, and the real-time factor."""
    captions = captions_of(asked.data)
    wanted = [captions[i % len(captions)] for i in range(asked.n)]
    began = time.perf_counter()
    made = [pipeline(caption, seed=i) for i, caption in enumerate(wanted)]
    factor = (time.perf_counter() - began) / sum(sound.seconds for sound in made)
    peaks = [float(np.abs(sound.samples).max()) for sound in made]
    groups = {
        "sounds": {
            "silent": share(sum(peak < SILENT for peak in peaks), len(made)),
            "clipped": share(sum(peak >= FULL for peak in peaks), len(made)),
        },
        "time": {"real-time factor": Measured(factor, factor, factor, len(made))},
    }
    ear = ClapScorer.load(asked.scorer) if asked.scorer else pipeline.system.listener
    if ear is not None:
        groups["clap"] = clap_scores(ear, [s.samples for s in made], made[0].rate, wanted)
    return Report(plain(groups), lines_of(groups))


def clap_scores(
    ear: ClapScorer, sounds: list[np.ndarray], rate: int, captions: list[str]
) -> dict[str, Measured]:
    """The mean cosine of sounds (C, N) and their captions; by chance: and the captions of others
    (each the next, but for equal ones); and the share of sounds that fit their own caption better
    than that."""
    texts = list(dict.fromkeys(captions))
    place = torch.tensor([texts.index(caption) for caption in captions])
    fits = (ear.sounds(sounds, rate) @ ear.texts(texts).T).cpu()
    own = fits.gather(1, place[:, None])[:, 0]
    found = {"own caption": bootstrap(mean, own)}
    if len(texts) > 1:
        other = fits.gather(1, ((place + 1) % len(texts))[:, None])[:, 0]
        found["by chance"] = bootstrap(mean, other)
        found["own fits better"] = share(int((own > other).sum()), len(own))
    return found


def mean(values: Tensor) -> float:
    return float(values.mean())


def captions_of(file: str | None) -> tuple[str, ...]:
    """The lines of a text file, or ten of the house's."""
    if file is None:
        return CAPTIONS
    if not Path(file).is_file():
        raise DaedalError(f"there is no file {file}; give captions, one a line.")
    lines = [line.strip() for line in Path(file).read_text().splitlines()]
    if not any(lines):
        raise DaedalError(f"{file} holds no captions; write one a line.")
    return tuple(filter(None, lines))
