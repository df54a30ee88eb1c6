"""What pipelines of music and of sounds return: samples at a rate."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daedal.media.audio import play, player, save_audio
from daedal.media.images import encode
from daedal.media.sound_picture import picture
from daedal.pipelines.medium import Result
from daedal.pipelines.sound_params import SOUND


@dataclass(frozen=True)
class Sounding(Result):
    """Samples (C, N) float32 at `rate`."""

    samples: np.ndarray
    rate: int

    @property
    def logged(self) -> str:
        return hashlib.sha256(np.round(self.samples * 32767).astype("<i2").tobytes()).hexdigest()

    @property
    def seconds(self) -> float:
        return self.samples.shape[1] / self.rate

    def save(self, path: str | Path) -> Path:
        """Write wav, flac, ogg, opus or mp3 by suffix, with the recipe in the metadata."""
        return save_audio(self.samples, path, self.rate, self.recipe)

    def as_dict(self) -> dict[str, Any]:
        return super().as_dict() | {"seconds": round(self.seconds, 3)}

    def _repr_html_(self) -> str:
        return player(self.samples, self.rate)


@dataclass(frozen=True)
class Sound(Sounding):
    """One finished sound."""

    medium = SOUND
    steps: int

    @property
    def amount(self) -> int:
        return self.steps

    @classmethod
    def show(cls, results: list[Any]) -> None:
        for result in results:
            play(result.samples, result.rate)

    def _repr_png_(self) -> bytes:
        return encode(picture(self.samples, self.rate, str(self.recipe["prompt"])[:80]))


@dataclass(frozen=True)
class Progress:
    """A step of a sound: how many of how many."""

    done: int
    total: int
