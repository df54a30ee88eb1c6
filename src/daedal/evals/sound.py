"""`daedal eval` of a model of sounds: how many of its sounds are silent, how many clipped, and how long
they take to make."""

import time
from pathlib import Path

import numpy as np

from daedal.errors import DaedalError
from daedal.evals.measured import Measured, Report, lines_of, plain, share
from daedal.media.sound import SILENT
from daedal.pipelines.sound import SoundPipeline
from daedal.pipelines.sound_params import SoundMeasuring

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
    return Report(plain(groups), lines_of(groups))


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
