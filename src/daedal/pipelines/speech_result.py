"""What a speech pipeline yields and returns."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daedal.errors import DaedalError
from daedal.files import write_whole
from daedal.media import audio
from daedal.media.images import encode
from daedal.media.sound_picture import picture
from daedal.pipelines.medium import Result
from daedal.pipelines.speech_params import SPEECH
from daedal.systems.voice import Spoken


@dataclass(frozen=True)
class Line:
    """A sentence as it was written, when it is heard, and its words."""

    text: str
    start: float
    end: float
    words: tuple[Spoken, ...]


@dataclass(frozen=True)
class Speech(Result):
    """One finished reading."""

    medium = SPEECH
    samples: np.ndarray  # (1, N) float32
    rate: int
    lines: tuple[Line, ...]
    subtitles: str | None = None  # a file that is written with it

    @property
    def logged(self) -> str:
        return hashlib.sha256(np.ascontiguousarray(self.samples).data).hexdigest()

    @property
    def amount(self) -> int:
        return len(self.lines)

    @property
    def seconds(self) -> float:
        return self.samples.shape[1] / self.rate

    @property
    def words(self) -> list[Spoken]:
        """Every word with its times, as it is spoken: figures in words."""
        return [word for line in self.lines for word in line.words]

    def as_dict(self) -> dict[str, Any]:
        words = [vars(word) for word in self.words]
        return super().as_dict() | {"seconds": round(self.seconds, 3), "words": words}

    def save(self, path: str | Path) -> Path:
        """Write wav, flac, ogg, opus or mp3 by suffix, with the recipe in the metadata, and the
        subtitles that were asked for."""
        saved = audio.save_audio(self.samples, path, self.rate, self.recipe)
        if self.subtitles:
            self.save_subtitles(self.subtitles)
        return saved

    def save_subtitles(self, path: str | Path) -> Path:
        """Write SubRip (.srt) of the sentences, or JSON (.json) with every word."""
        path = Path(path)
        if path.suffix.lower() not in (".srt", ".json"):
            raise DaedalError(
                f"{path.name!r} does not end in .srt or .json; give a name that does."
            )
        if path.suffix.lower() == ".srt":
            text = srt(self.lines)
        else:
            rows = [
                {**vars(line), "words": [vars(word) for word in line.words]} for line in self.lines
            ]
            text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
        write_whole(path, text.encode())
        return path

    @classmethod
    def show(cls, results: list[Any]) -> None:
        for result in results:
            audio.play(result.samples, result.rate)

    def _repr_html_(self) -> str:
        return audio.player(self.samples, self.rate)

    def _repr_png_(self) -> bytes:
        return encode(picture(self.samples, self.rate, str(self.recipe["prompt"])[:80]))


@dataclass(frozen=True)
class Piece:
    """Samples (N,) as they are made, and how many sentences of how many are done."""

    done: int
    total: int
    samples: np.ndarray


def srt(lines: tuple[Line, ...]) -> str:
    """SubRip: number, times, text."""
    rows = [
        f"{i}\n{clock(line.start)} --> {clock(line.end)}\n{line.text}\n"
        for i, line in enumerate(lines, 1)
    ]
    return "\n".join(rows)


def clock(seconds: float) -> str:
    ms = round(1000 * seconds)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02},{ms % 1000:03}"
