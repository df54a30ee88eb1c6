"""What a music pipeline yields and returns."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daedal.errors import DaedalError
from daedal.files import write_whole
from daedal.media import abc, engrave, midi
from daedal.media.score import Tune
from daedal.media.synth import PROGRAMS
from daedal.pipelines.music_params import MUSIC
from daedal.pipelines.sound_result import Sounding

SCORES = (".abc", ".mid", ".svg")


@dataclass(frozen=True)
class Progress:
    """Tokens so far, of at most how many."""

    done: int
    total: int


@dataclass(frozen=True)
class Music(Sounding):
    """One piece, and the tune where it was written as notes."""

    medium = MUSIC
    tokens: int
    tune: Tune | None = None
    instrument: str = ""

    @property
    def amount(self) -> int:
        return self.tokens

    def save(self, path: str | Path) -> Path:
        """Write sound (.wav, .flac, .ogg, .opus, .mp3), with the recipe in the metadata, or a tune's
        notes (.abc, .mid, .svg)."""
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in SCORES:
            return super().save(path)
        if self.tune is None:
            raise DaedalError(
                f"{self.recipe['model']} makes sound and no notes, so it cannot write {suffix}; use .wav."
            )
        write_whole(path, score(self.tune, suffix, self.instrument))
        return path

    def as_dict(self) -> dict[str, Any]:
        notes = {"abc": abc.write(self.tune)} if self.tune else {}
        return super().as_dict() | notes

    def _repr_html_(self) -> str:
        return (engrave.engrave(self.tune) if self.tune else "") + super()._repr_html_()


def score(tune: Tune, suffix: str, instrument: str) -> bytes:
    """A tune as ABC, MIDI or an engraved page."""
    if suffix == ".mid":
        return midi.write(tune, PROGRAMS[instrument])
    return (abc.write(tune) if suffix == ".abc" else engrave.engrave(tune)).encode()
