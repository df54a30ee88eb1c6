"""Transcriptions: `load` an ear by name and call it with a file.

pipeline = daedal.load("whisper-base")
print(pipeline("interview.mp3"))
for piece in pipeline.stream("lecture.mp4", format="srt"):  # of a video, its sound track
    print(piece.text, end="", flush=True)
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from daedal import checkpoints
from daedal import device as machine
from daedal.checkpoints import ctranslate2
from daedal.engine.runtime import Generation, GeneratorLane
from daedal.errors import DaedalError
from daedal.media.audio import open_blocks
from daedal.media.sound import Samples
from daedal.networks.config import one_of
from daedal.pipelines.medium import Pipeline, SteppedHandle
from daedal.pipelines.place import located
from daedal.pipelines.remote_transcription import RemoteEar
from daedal.pipelines.transcription_params import FORMATS, TRANSCRIPTION, TranscriptionParams
from daedal.pipelines.transcription_result import Piece, Transcription, block, head
from daedal.settings import read
from daedal.systems.hearing import TEMPERATURES
from daedal.systems.transcribe import Segment, Transcript, Wishes, transcribed
from daedal.systems.whisper import RATE, Whisper

Sound = str | Path | bytes | np.ndarray
STREAMED = ("text", "srt", "vtt")  # formats that come piece by piece


class TranscriptionPipeline(Pipeline):
    """An ear behind one call. Settings are those of `TranscriptionParams`; what is heard is a file,
    its bytes, or samples (N,) at 16 kHz."""

    medium = TRANSCRIPTION

    def __init__(self, whisper: Whisper, name: str, folder: Path, loading: dict[str, Any]) -> None:
        self.whisper, self.name, self.folder, self.loading = whisper, name, folder, loading
        self.lane = GeneratorLane()

    def start(
        self, prompt: Sound, *, client: str = "", priority: int = 0, **settings: Any
    ) -> "Hearing":
        params = params_of(settings)
        if params.language:
            params = replace(params, language=self.whisper.language(params.language))
        elif not self.whisper.tokens.languages:
            params = replace(params, language="en")
        return Hearing(self, prompt, params, blocks_of(prompt), client, priority)

    def stream(self, prompt: Sound, **settings: Any) -> "Hearing":
        return self.start(prompt, **settings)

    def runtime(self) -> dict[str, Any]:
        weight = self.whisper.network.encoder.conv1.weight
        return machine.runtime_of(weight) | {"loading": self.loading}


class Hearing(SteppedHandle):
    """A transcription under way."""

    def __init__(
        self,
        pipeline: TranscriptionPipeline,
        prompt: Sound,
        params: TranscriptionParams,
        blocks: Iterator[Samples],
        client: str,
        priority: int,
    ) -> None:
        self.pipeline, self.prompt, self.params = pipeline, prompt, params
        self.heard: list[Segment] = []
        self.progress, self.told = Transcript(), False
        steps = self.segments(
            transcribed(pipeline.whisper, blocks, wishes_of(params), self.progress)
        )
        generation = Generation(steps, None, client, priority)
        super().__init__(pipeline.lane.submit(generation))

    def segments(self, steps: Iterator[Segment | None]) -> Any:
        for segment in steps:
            if segment is not None:
                self.heard.append(segment)
            yield segment
        if not self.heard:
            self.remarks = ("nothing was heard that is speech.",)

    def event(self, state: Segment) -> Piece:
        kind, text = self.params.format, ""
        if kind in STREAMED:
            front = head(kind) if state.id == 0 else ""
            plain = state.text.lstrip() if state.id == 0 else state.text
            text = plain if kind == "text" else front + block(state, kind)
        return Piece(state, text, *self._far())

    def _far(self) -> tuple[int, int]:
        return round(self.progress.seconds), max(1, round(self.progress.of))

    def events(self) -> Iterator[Piece]:
        """The pieces; the formats that are one value come whole at the end."""
        yield from super().events()
        whole = self.params.format not in STREAMED and not self.told
        if whole and self.generation.finished == "stop":
            self.told = True
            yield Piece(None, self.results()[0].whole, *self._far())

    def results(self) -> list[Transcription]:
        self.value()
        settings = {key: value for key, value in asdict(self.params).items() if value is not None}
        made = self.progress
        recipe = self.pipeline.recipe(named(self.prompt), settings) | {"sample": 0}
        language = made.language or "" if self.heard else ""
        own = (tuple(self.heard), language, made.seconds)
        return [Transcription(recipe, "stop", *own, joules=self.share(1))]


def params_of(settings: dict[str, Any]) -> TranscriptionParams:
    params = read(TranscriptionParams, settings, "transcriptions")
    one_of("format", params.format, FORMATS)
    return params


def wishes_of(p: TranscriptionParams) -> Wishes:
    temperatures = TEMPERATURES if p.temperature is None else (p.temperature,)
    task = "translate" if p.translate else "transcribe"
    return Wishes(p.language, task, p.words, p.beams, p.hint, temperatures, p.seed)


def blocks_of(sound: Sound) -> Iterator[Samples]:
    """The sound in blocks of one channel at 16 kHz."""
    if isinstance(sound, np.ndarray):
        if sound.ndim != 1:
            raise DaedalError(
                f"samples of shape {sound.shape} are not one channel; give (N,) at 16 kHz, or a file."
            )
        return iter([sound[None].astype(np.float32)])
    return open_blocks(sound, rate=RATE, mono=True)[1]


def named(sound: Sound) -> str:
    """What the history calls a sound: its file, or a digest of what has none."""
    if isinstance(sound, str | Path):
        return str(sound)
    data = sound if isinstance(sound, bytes) else sound.tobytes()
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def holds(place: Path) -> bool:
    """Whether a folder holds an ear."""
    if ctranslate2.holds(place):
        return True
    if not (place / "config.json").is_file():
        return False
    return checkpoints.read_config(place).get("model_type") == "whisper"


def load(
    name_or_folder: str | Path, device: str = "auto", dtype: str = "auto"
) -> TranscriptionPipeline:
    """A pipeline for a Whisper folder of transformers or CTranslate2, or a Hub name. `dtype` auto
    computes on a CPU with decoder weights of 8 bits, and its encoder in bf16 where it has units for
    that."""
    folder = located(name_or_folder)
    if not holds(folder):
        raise DaedalError(
            f"{name_or_folder} is no ear; `daedal models pull whisper-base` brings one."
        )
    where = machine.pick_device(device)
    if dtype != "auto":
        machine.compute_dtype(dtype, where)
    loading = {"device": where.type, "dtype": dtype}
    whisper = Whisper.load(folder, where, dtype)
    return TranscriptionPipeline(whisper, str(name_or_folder), folder, loading)


def connect(server: str, model: str) -> Pipeline:
    """A model of a Daedal server."""
    return RemoteEar(server, model)
