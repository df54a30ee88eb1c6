"""`daedal eval` of a voice: how fast it speaks, and how many of its words an ear gets wrong. The ear
is Whisper in a CTranslate2 folder, through faster-whisper (an extra); it errs by itself, so a number
means something beside that of another voice on the same sentences (`--beside`)."""

import random
import re
import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daedal.data.documents import Source, documents
from daedal.data.phonemes.normalise import normalise
from daedal.data.phonemes.reader import pieces
from daedal.errors import DaedalError
from daedal.evals.measured import Measured, Report, bootstrap, lines_of, plain
from daedal.media.sound import resample
from daedal.pipelines.speech import SpeechPipeline, load
from daedal.pipelines.speech_params import SpeechMeasuring
from daedal.pipelines.speech_result import Speech
from daedal.processes.measures import edits

EAR_RATE = 16_000
LETTERS = (40, 160)  # of a sentence to read
SILENT, CLIPPED = 1e-3, 0.999
SPEED_TEXTS = 8  # sentences that the speed is measured on
FILES = (".safetensors", ".onnx")


def evaluate(pipeline: SpeechPipeline, asked: SpeechMeasuring) -> Report:
    """What was asked for, measured: speed always, words where there is an ear."""
    texts = sentences(asked)
    groups: dict[str, dict[str, Measured]] = {}
    values: dict[str, Any] = {"sentences": len(texts)}
    voices = {"voice": pipeline}
    if asked.beside:
        voices["beside"] = load(asked.beside)
    hear = ear(asked.ear) if asked.ear else None
    for name, voice in voices.items():
        groups[name] = speed(voice, texts[:SPEED_TEXTS])
        if hear:
            groups[name] |= heard(voice, texts, hear)
    values |= plain(groups)
    values["bytes"] = size_of(pipeline.folder)
    lines = [*lines_of(groups), f"size       {values['bytes'] / 1e6:.2f} MB"]
    return Report(values, lines)


def sentences(asked: SpeechMeasuring) -> list[str]:
    """Sentences of the data, drawn with a fixed seed."""
    if not asked.data:
        raise DaedalError("there is nothing to read; give --data FILE, a text or parquet file.")
    where = {"split": asked.split} if asked.split else {}
    texts = list(islice(documents([Source(path=asked.data, where=where)]), 20_000))
    rng, found = random.Random(0), list[str]()
    rng.shuffle(texts)
    for text in texts:
        lines = [line for line, _ in pieces(text) if suits(line)]
        found += rng.sample(lines, min(1, len(lines)))
        if len(found) == asked.n:
            return found
    if not found:
        raise DaedalError(f"{asked.data} has no sentence of {LETTERS[0]} to {LETTERS[1]} letters.")
    return found


def suits(line: str) -> bool:
    """A whole sentence of middling length, in small letters."""
    whole = line[:1].isupper() and line[-1:] in ".!?" and '"' not in line
    return whole and LETTERS[0] <= len(line) <= LETTERS[1] and not line.isupper()


def speed(pipeline: SpeechPipeline, texts: Sequence[str]) -> dict[str, Measured]:
    """The time that speech takes by the time that it lasts, and until the first sound comes, with
    one thread, of a warm process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pipeline(texts[0], seed=0)
        rows = [timed(pipeline, text) for text in texts]
    finally:
        torch.set_num_threads(threads)
    taken, first, lasting = torch.tensor(rows, dtype=torch.float64).unbind(1)
    pairs = torch.stack([taken, lasting], 1)
    return {
        "real_time": bootstrap(ratio, pairs),
        "first_ms": bootstrap(lambda x: float(1000 * x.median()), first),
    }


def timed(pipeline: SpeechPipeline, text: str) -> tuple[float, float, float]:
    """Seconds of the processor that a reading takes, seconds to its first sound, and its length."""
    began, clock, first = time.process_time(), time.perf_counter(), 0.0
    handle = pipeline.start(text, seed=0)
    for _ in handle:
        first = first or time.perf_counter() - clock
    return time.process_time() - began, first, handle.results()[0].seconds


def heard(pipeline: SpeechPipeline, texts: Sequence[str], hear: Any) -> dict[str, Measured]:
    """Word and character errors of what the ear writes down, and how often the sound fails."""
    words, letters, failing = list[tuple[int, int]](), list[tuple[int, int]](), list[float]()
    for text in texts:
        speech: Speech = pipeline(text, seed=0)
        said, got = spelt(text), spelt(hear(speech))
        words.append((edits(said.split(), got.split()), len(said.split())))
        letters.append((edits(said, got), len(said)))
        failing.append(float(fails(speech)))
    return {
        "words": bootstrap(ratio, torch.tensor(words, dtype=torch.float64), 1000),
        "letters": bootstrap(ratio, torch.tensor(letters, dtype=torch.float64), 1000),
        "fails": bootstrap(lambda x: float(x.mean()), torch.tensor(failing)),
    }


def ratio(pairs: Tensor) -> float:
    return float(pairs[:, 0].sum() / pairs[:, 1].sum())


def fails(speech: Speech) -> bool:
    """Whether a reading is silent, clips, or has a second without sound within it."""
    loud = np.abs(speech.samples[0])
    second = loud[: len(loud) // speech.rate * speech.rate].reshape(-1, speech.rate)
    gap = len(second) > 0 and second.max(1).min() < SILENT
    return bool(loud.max() < SILENT or (loud > CLIPPED).mean() > 1e-3 or gap)


def spelt(text: str) -> str:
    """Words in small letters, figures written out, without marks: what is compared."""
    return " ".join(re.findall(r"[a-z]+", normalise(text).lower().replace("'", "")))


def ear(folder: str) -> Any:
    """A function from speech to text."""
    if find_spec("faster_whisper") is None:
        raise DaedalError("the ear needs faster-whisper; pip install 'daedal[ear]'.")
    if not (Path(folder) / "model.bin").exists():
        raise DaedalError(f"{folder} holds no model.bin; give a CTranslate2 folder of Whisper.")
    from faster_whisper import WhisperModel  # an extra

    whisper = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=1)

    def hear(speech: Speech) -> str:
        mono = resample(speech.samples[0], speech.rate, EAR_RATE)
        found, _ = whisper.transcribe(mono, language="en", beam_size=1, temperature=0.0)
        return " ".join(segment.text for segment in found)

    return hear


def size_of(folder: Path | None) -> int:
    if folder is None:
        return 0
    files = [folder] if folder.is_file() else folder.iterdir()
    return sum(file.stat().st_size for file in files if file.suffix in FILES)
