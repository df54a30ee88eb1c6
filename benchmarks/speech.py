"""Speech: a Piper voice run by Daedal against onnxruntime on the same file, and the house voice.

    python benchmarks/speech.py                # `daedal models pull joe` first; pip install onnxruntime

Both sides read the same phonemes without noise, in turns, so that drift of the machine hits both
alike; times are medians, a real-time factor is time by the length of the sound. The last line is
JSON."""

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from daedal.checkpoints import catalogue, piper
from daedal.pipelines.speech import SpeechPipeline, load
from daedal.systems.voice import Manner

ROUNDS = 9
TEXT = "She had never seen so many people in one place before, and the captain looked at the sea."


def main() -> None:
    house = load("house/voice")
    rows: dict[str, float] = {}
    torch.set_num_threads(1)
    rows["house voice, one thread"] = median(spoken(house)) / seconds(house)
    rows["its first sound, ms"] = 1000 * median(lambda: next(iter(house.stream(TEXT, noise=0))))
    if (place := catalogue.place("joe")) is None:
        print("joe is not on this machine; `daedal models pull joe` brings it.")
    else:
        rows |= against_onnxruntime(place)
    for name, value in rows.items():
        print(f"{name:<42} {value:8.4f}")
    print(json.dumps(rows))


def against_onnxruntime(place: Any) -> dict[str, float]:
    """Real-time factors with two threads, and how many times faster ours is."""
    import onnxruntime

    file, rows = piper.voice_file(place), {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 2, 1
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    torch.set_num_threads(2)
    for dtype in ("fp32", "auto"):
        voice = load(place, dtype=dtype)
        (sentence,) = voice.reader.sentences(TEXT)
        ids = np.array([voice.voice.symbols(sentence.words).ids])
        scales = np.array([0, 1, 0], np.float32)
        given = {"input": ids, "input_lengths": np.array([ids.shape[1]]), "scales": scales}
        ours, theirs = in_turns(spoken(voice), lambda given=given: session.run(None, given))
        rows[f"joe in {dtype}, two threads"] = ours / seconds(voice)
        rows[f"onnxruntime beside {dtype}, two threads"] = theirs / seconds(voice)
        rows[f"times faster than onnxruntime, {dtype}"] = theirs / ours
    return rows


def spoken(pipeline: SpeechPipeline) -> Callable[[], Any]:
    """Phonemes to the last sample, as the peer does it."""
    (sentence,) = pipeline.reader.sentences(TEXT)
    return lambda: list(pipeline.voice.said(sentence, Manner(noise=0)).blocks)


def seconds(pipeline: SpeechPipeline) -> float:
    return pipeline(TEXT, noise=0).seconds


def median(work: Callable[[], Any]) -> float:
    work()
    return statistics.median(timed(work) for _ in range(ROUNDS))


def in_turns(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[float, float]:
    first(), second()
    pairs = [(timed(first), timed(second)) for _ in range(ROUNDS)]
    return tuple(statistics.median(times) for times in zip(*pairs, strict=True))  # type: ignore[return-value]


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
