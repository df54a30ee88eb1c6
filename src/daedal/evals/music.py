"""`daedal eval` of a model of tunes: captions drawn by lot, and what the tunes written to them have of
what was asked. Key, metre and form are read off the notes, the tempo off the sound."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from daedal.data.tunes import BAR, RHYTHMS, form_of, legal, text_of
from daedal.errors import DaedalError
from daedal.evals.measured import Report, lines_of, plain, share
from daedal.media.score import Tune, bar_ticks, tonic_class
from daedal.media.sound import stft
from daedal.pipelines.music_params import MusicMeasuring
from daedal.pipelines.music_result import Music
from daedal.pipelines.tunes import TunePipeline

TEMPI = (72, 88, 108, 132, 160)  # a closed set: tempo in the open is read wrong even of clean sound
TONICS = ("C", "D", "Eb", "E", "F", "F#", "G", "A", "Bb")
FORMS = ("AABB", "AB", "AAB", "AABBCC")
INSTRUMENTS = ("fiddle", "flute", "harp", "piano", "mandolin", "accordion")
COPY = 8  # bars
# Krumhansl & Kessler (1982): how well each pitch class fits a key, from the tonic on
PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}
HOP = 441


def evaluate(pipeline: TunePipeline, asked: MusicMeasuring) -> Report:
    """Shares of tunes that are as asked, with Wilson's intervals."""
    if not isinstance(pipeline, TunePipeline):
        raise DaedalError("only models of tunes are measured here; their notes can be read.")
    made = [(wish, pipeline(caption(wish), seed=i)) for i, wish in enumerate(wishes(asked.n))]
    hits = [found(wish, piece) for wish, piece in made]
    groups = {
        "as asked": {name: share(sum(hit[name] for hit in hits), len(hits)) for name in hits[0]}
    }
    if asked.data:
        known = learnt(Path(asked.data))
        copies = sum(copied(piece, known) for _, piece in made)
        groups["copies"] = {f"above {COPY} bars": share(copies, len(made))}
    return Report(plain(groups), lines_of(groups))


def wishes(n: int) -> Iterator[dict[str, Any]]:
    draw = random.Random(0)
    for _ in range(n):
        rhythm = draw.choice(("jig", "reel", "hornpipe", "waltz", "march", "slip jig"))
        yield {
            "rhythm": rhythm,
            "metre": draw.choice(RHYTHMS[rhythm][0]),
            "tonic": draw.choice(TONICS),
            "mode": draw.choice(("major", "minor")),
            "bpm": draw.choice(TEMPI),
            "form": draw.choice(FORMS),
            "instrument": draw.choice(INSTRUMENTS),
        }


def caption(wish: dict[str, Any]) -> str:
    return "a {rhythm} in {tonic} {mode} for {instrument}, {metre}, {bpm} bpm, {form}".format(
        **wish
    )


def found(wish: dict[str, Any], piece: Music) -> dict[str, bool]:
    """What a tune has of its wish."""
    tune = piece.tune
    assert tune is not None
    count, unit = map(int, wish["metre"].split("/"))
    inner = [bar for strain in tune.strains for bar in strain.bars[1:-1]]
    full = bar_ticks((count, unit))
    return {
        "legal": legal(text_of(tune)),
        "key": key_heard(tune) == (tonic_class(wish["tonic"]), wish["mode"]),
        "metre": all(sum(note.ticks for note in bar) == full for bar in inner),
        "tempo": tempo_heard(piece) == wish["bpm"],
        "form": form_of(tune.strains) == wish["form"]
        and len(set(tune.strains)) == len(tune.strains),
    }


def key_heard(tune: Tune) -> tuple[int, str]:
    """(pitch class, mode) whose profile fits the notes best, each weighted by its length; the last
    note, on which tunes end at home, weighs a bar."""
    weights = np.zeros(12)
    notes = [note for note in tune.played() if note.pitch is not None]
    for note in notes:
        weights[note.pitch % 12] += note.ticks  # type: ignore[operator]
    weights[notes[-1].pitch % 12] += 0.1 * weights.sum()  # type: ignore[operator]
    scores = {
        (tonic, mode): np.corrcoef(np.roll(profile, tonic), weights)[0, 1]
        for tonic in range(12)
        for mode, profile in PROFILES.items()
    }
    return max(scores, key=lambda key: scores[key])


def tempo_heard(piece: Music) -> int:
    """The tempo of the closed set at whose beats the sound's onsets repeat most."""
    spectrum = np.log1p(100 * np.abs(stft(piece.samples[0], 2048, HOP)))
    onset = np.maximum(np.diff(spectrum, axis=1), 0).sum(0)
    onset = onset - onset.mean()
    size = 1 << (2 * len(onset)).bit_length()
    power = np.abs(np.fft.rfft(onset, size)) ** 2
    again = np.fft.irfft(power)[: len(onset)]
    beats = {bpm: 60 / bpm * piece.rate / HOP for bpm in TEMPI}
    lags = {bpm: [beat * k for k in (1, 2, 3, 4)] for bpm, beat in beats.items()}
    at = np.arange(len(again))
    scores = {bpm: np.mean(np.interp(each, at, again)) for bpm, each in lags.items()}
    return max(scores, key=lambda bpm: scores[bpm])


# ---- copies --------------------------------------------------------------------------------------


def runs(words: str) -> set[tuple[str, ...]]:
    """Every melody of COPY + 1 bars of a tune, whatever its key."""
    bars = [" ".join(bar.split()) for bar in words.split(BAR)]
    plain_bars = [" ".join(w for w in bar.split() if w[0] in "dpr") for bar in bars if bar]
    return {tuple(plain_bars[i : i + COPY + 1]) for i in range(len(plain_bars) - COPY)}


def learnt(file: Path) -> set[tuple[str, ...]]:
    if not file.is_file():
        raise DaedalError(
            f"{file} is not there; it is what `python -m daedal.data.tunes` writes (train.jsonl)."
        )
    found: set[tuple[str, ...]] = set()
    for line in file.read_text().splitlines():
        _, _, _, _, *rest = json.loads(line)["text"].split()
        found |= runs(" ".join(rest))
    return found


def copied(piece: Music, known: set[tuple[str, ...]]) -> bool:
    assert piece.tune is not None
    _, _, _, _, *rest = text_of(piece.tune).split()
    return bool(runs(" ".join(rest)) & known)
