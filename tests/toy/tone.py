"""A pipeline of tones: a note becomes a sine, a tenth of a second a step."""

import hashlib
import io
import json
import wave
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daedal.engine.runtime import Generation, GeneratorLane
from daedal.errors import DaedalError, nearest
from daedal.files import write_whole
from daedal.pipelines.medium import Pipeline, Result, SteppedHandle
from daedal.pipelines.place import located
from daedal.settings import read
from tests.toy.params import TONE, ToneParams

RATE = 8000
NOTES = {"a": 440.0, "c": 261.63, "e": 329.63}


@dataclass(frozen=True)
class Tone(Result):
    medium = TONE
    wave: np.ndarray

    @property
    def logged(self) -> str:
        return hashlib.sha256(self.wave.tobytes()).hexdigest()

    @property
    def amount(self) -> int:
        return len(self.wave)

    def save(self, path: str | Path) -> Path:
        data = io.BytesIO()
        with wave.open(data, "wb") as file:
            file.setnchannels(1), file.setsampwidth(2), file.setframerate(RATE)
            file.writeframes((self.wave * 32767).astype("<i2").tobytes())
        write_whole(Path(path), data.getvalue())
        return Path(path)


@dataclass(frozen=True)
class Step:
    done: int
    total: int


class Playing(SteppedHandle):
    def __init__(
        self, pipeline: "TonePipeline", prompt: str, params: ToneParams, generation: Generation
    ) -> None:
        super().__init__(generation)
        self.pipeline, self.prompt, self.params = pipeline, prompt, params

    def event(self, state: Any) -> Step:
        return Step(*state)

    def results(self) -> list[Tone]:
        recipe = self.pipeline.recipe(self.prompt, asdict(self.params))
        return [Tone(recipe | {"sample": i}, "stop", sound) for i, sound in enumerate(self.value())]


class TonePipeline(Pipeline):
    medium = TONE

    def __init__(self, name: str, folder: Path, loading: dict[str, Any]) -> None:
        self.name, self.folder, self.loading = name, folder, loading
        self.octave, self.lane = (
            json.loads((folder / "tone.json").read_text())["octave"],
            GeneratorLane(),
        )

    def start(
        self, prompt: str, *, client: str = "", priority: int = 0, **settings: Any
    ) -> Playing:
        params = read(ToneParams, settings, "tones")
        if prompt not in NOTES:
            raise DaedalError(
                f"{prompt!r} is not a note{nearest(prompt, list(NOTES))}; notes are {', '.join(NOTES)}."
            )
        generation = Generation(
            self.play(NOTES[prompt] * 2**self.octave, params), None, client, priority
        )
        return Playing(self, prompt, params, self.lane.submit(generation))

    def play(self, pitch: float, p: ToneParams) -> Iterator[tuple[int, int]]:
        at, total, parts = (
            np.arange(int(p.seconds * RATE)) / RATE,
            max(1, round(p.seconds * 10)),
            [],
        )
        for i, part in enumerate(np.array_split(at, total)):
            parts.append(part)
            yield i + 1, total
        whole = np.concatenate(parts)
        return [p.volume * np.sin(2 * np.pi * pitch * whole + p.seed + i) for i in range(p.n)]

    def runtime(self) -> dict[str, Any]:
        return {"device": "cpu", "loading": self.loading}


def holds(place: Path) -> bool:
    return (place / "tone.json").exists()


def load(name: str | Path, device: str = "auto", dtype: str = "auto") -> TonePipeline:
    return TonePipeline(str(name), located(name), {"device": device, "dtype": dtype})
