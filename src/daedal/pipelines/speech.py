"""Speech: `load` a voice by name and call it.

voice = daedal.load("house/voice")
speech = voice("Dr. Smith paid $3.50 for *this*. [pause 0.5s] Really?", speed=1.1)
speech.save("said.wav")
for piece in voice.stream(chapter):            # samples as they are made, sentence by sentence
    play(piece.samples)
"""

import secrets
from collections.abc import Generator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daedal import checkpoints
from daedal import device as machine
from daedal.data.phonemes.reader import Reader, Verbatim
from daedal.data.phonemes.speller import Speller
from daedal.engine.runtime import Generation, GeneratorLane
from daedal.errors import DaedalError, nearest
from daedal.pipelines.digest import digest
from daedal.pipelines.medium import Pipeline, SteppedHandle
from daedal.pipelines.place import located
from daedal.pipelines.remote_speech import RemoteSpeechPipeline
from daedal.pipelines.speech_params import SPEECH, SpeechParams
from daedal.pipelines.speech_result import Line, Piece, Speech
from daedal.settings import read
from daedal.systems import bark
from daedal.systems import voice as voices
from daedal.systems.bark import BarkVoice
from daedal.systems.voice import Manner, Spoken, Voice

PHONEMES = "house/phonemes"
Made = tuple[np.ndarray, tuple[Line, ...]]  # samples (1, N), and what is heard when
LONGEST = 2_000_000  # characters; a long novel has 1 million


class SpeechPipeline(Pipeline):
    """A voice behind one call. Settings are those of `SpeechParams`."""

    medium = SPEECH

    def __init__(
        self,
        voice: Voice | BarkVoice,
        reader: Reader | Verbatim,
        name: str = "voice",
        folder: Path | None = None,
        loading: dict[str, Any] | None = None,
    ) -> None:
        self.voice, self.reader = voice, reader
        self.name, self.folder, self.loading = name, folder, loading or {}
        self.lane = GeneratorLane()

    def start(
        self, prompt: str, *, client: str = "", priority: int = 0, **settings: Any
    ) -> "Speaking":
        p = read(SpeechParams, settings, "speech")
        if len(prompt) > LONGEST:
            raise DaedalError(
                f"the text has {len(prompt):,} characters; a voice reads {LONGEST:,} at once, so give it in parts."
            )
        return Speaking(self, prompt, p, client, priority)

    def runtime(self) -> dict[str, Any]:
        held = {
            "torch": torch.__version__,
            "dtype": str(self.voice.dtype),
            "threads": torch.get_num_threads(),
            "phonemes": digest(checkpoints.resolve(PHONEMES))[:12],
        }
        return held | {"device": self.loading.get("device", "cpu"), "loading": self.loading}


class Speaking(SteppedHandle):
    """Readings under way. Its events are pieces of sound."""

    def __init__(
        self,
        pipeline: SpeechPipeline,
        prompt: str,
        params: SpeechParams,
        client: str,
        priority: int,
    ) -> None:
        self.pipeline, self.prompt, self.params = pipeline, prompt, params
        self.seed = params.seed if params.seed is not None else secrets.randbelow(2**31)
        self.manner = Manner(
            params.speed,
            params.pitch,
            params.energy,
            params.noise,
            pipeline.voice.speaker(params.speaker),
        )
        self.sentences = list(pipeline.reader.sentences(prompt))
        generation = Generation(self.steps(), None, client, priority)
        super().__init__(pipeline.lane.submit(generation))

    @property
    def rate(self) -> int:
        return self.pipeline.voice.rate

    def steps(self) -> Generator[Piece, None, list[Made]]:
        """The pieces of all readings; returns [(samples, lines)]."""
        made: list[Made] = []
        for i in range(self.params.n):
            made.append((yield from self.reading(i)))
        return made

    def reading(self, index: int) -> Generator[Piece, None, Made]:
        """One reading: sentences with the silence behind each."""
        parts, lines, at = list[np.ndarray](), list[Line](), 0
        total = len(self.sentences) * self.params.n
        for i, sentence in enumerate(self.sentences):
            done = i + 1 + index * len(self.sentences)
            start = at / self.rate
            if sentence.words:
                said = self.pipeline.voice.said(sentence, self.manner, self.seed + index + 7919 * i)
                for samples in said.blocks:
                    at += len(samples)
                    parts.append(samples)
                    yield Piece(done - 1, total, samples)
                words = tuple(Spoken(w.text, start + w.start, start + w.end) for w in said.words)
                lines.append(Line(sentence.text, start, at / self.rate, words))
            last = i == len(self.sentences) - 1
            silence = 0 if last else round(sentence.pause * self.params.pauses * self.rate)
            parts.append(np.zeros(silence, np.float32))
            at += silence
            yield Piece(done, total, parts[-1])
        return np.concatenate(parts)[None], tuple(lines)

    def event(self, state: Piece) -> Piece:
        return state

    @property
    def recipe(self) -> dict[str, Any]:
        """What makes the readings again."""
        asked = asdict(replace(self.params, seed=self.seed, subtitles=None))
        settings = {key: value for key, value in asked.items() if value is not None}
        return self.pipeline.recipe(self.prompt, settings)

    def results(self) -> list[Speech]:
        made, recipe = self.value(), self.recipe
        own = (self.params.subtitles,)
        return [
            Speech(
                recipe | {"sample": i},
                "stop",
                samples,
                self.rate,
                lines,
                *own,
                joules=self.share(len(made)),
            )
            for i, (samples, lines) in enumerate(made)
        ]


def holds(folder: Path) -> bool:
    """Whether a folder, or an ONNX file, is a voice."""
    return voices.holds(folder) or bark.holds(folder)


def load(name_or_folder: str | Path, device: str = "auto", dtype: str = "auto") -> SpeechPipeline:
    """A pipeline for the house voice, a Piper voice (`daedal models pull joe`, or its .onnx file), an
    MMS or a Bark folder. `dtype` auto computes the sound in bf16 where the device has units for it."""
    folder = voice_folder(name_or_folder)
    if not holds(folder):
        raise DaedalError(f"{name_or_folder} is not a voice; for text there is `daedal text`.")
    where = machine.pick_device(device)
    compute, loading = machine.compute_dtype(dtype, where), {"device": where.type, "dtype": dtype}
    if bark.holds(folder):
        speaks = bark.BarkVoice.load(folder, compute, where)
        return SpeechPipeline(speaks, Verbatim(), str(name_or_folder), folder, loading)
    voice = Voice.load(folder, compute, where)
    reader = Reader(Speller.load(checkpoints.resolve(PHONEMES)))
    return SpeechPipeline(voice, reader, str(name_or_folder), folder, loading)


def voice_folder(name: str | Path) -> Path:
    """Where a voice is; of a short name that is none, the nearest is told."""
    path = Path(name).expanduser()
    if path.suffix == ".onnx" and path.is_file():
        return path
    try:
        return located(name)
    except DaedalError as error:
        known = ["house/voice", "joe"]
        if "/" in str(name) or str(name) in known:
            raise
        raise DaedalError(
            f"there is no voice {str(name)!r}{nearest(str(name), known)}; there are {', '.join(known)}, a Piper voice's .onnx file, and MMS folders."
        ) from error


def connect(server: str, model: str) -> Pipeline:
    """A voice of a Daedal server."""
    return RemoteSpeechPipeline(server, model)
