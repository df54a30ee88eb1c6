"""A synthesiser for tunes: each instrument is a sum of partials with an envelope (Risset & Mathews
1969), a breath or bow of noise, and vibrato; plucked and struck ones let high partials die first.

    samples = render(tune, "fiddle")           # (N,) float32 at RATE

Pitches are exact, so that what is measured of a tune can be measured of its sound."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from daedal.media.score import Tune

RATE = 44100
PEAK = 0.8
TAIL = 0.6  # seconds in which the last note rings out


@dataclass(frozen=True)
class Instrument:
    """Amplitudes of the partials, times in seconds. `decay` is how long a partial takes to fall to a
    third, `damping` how much faster each higher one does; 0 holds for as long as the note lasts.
    `stretch` makes partials inharmonic, as those of bells."""

    partials: tuple[float, ...]
    attack: float
    release: float
    decay: float = 0.0
    damping: float = 0.0
    vibrato: float = 0.0  # of a semitone
    noise: float = 0.0
    stretch: float = 1.0


def falling(count: int, power: float, even: float = 1.0) -> tuple[float, ...]:
    """1 / k^power, even partials weaker by `even`."""
    return tuple((even if k % 2 == 0 else 1.0) / k**power for k in range(1, count + 1))


INSTRUMENTS = {
    "fiddle": Instrument(falling(16, 1.0), 0.045, 0.06, vibrato=0.18, noise=0.012),
    "flute": Instrument((1.0, 0.35, 0.12, 0.05, 0.02), 0.05, 0.06, vibrato=0.1, noise=0.02),
    "whistle": Instrument((1.0, 0.16, 0.06, 0.02), 0.02, 0.04, vibrato=0.05, noise=0.02),
    "oboe": Instrument((0.5, 0.9, 1.0, 0.7, 0.4, 0.3, 0.2, 0.1), 0.04, 0.05, vibrato=0.1),
    "clarinet": Instrument(falling(12, 1.0, 0.12), 0.04, 0.05),
    "pipes": Instrument(falling(20, 0.7), 0.02, 0.02),
    "accordion": Instrument(falling(14, 0.9, 0.8), 0.04, 0.05, vibrato=0.06),
    "concertina": Instrument(falling(12, 1.2, 0.6), 0.03, 0.04),
    "organ": Instrument((1.0, 0.7, 0.0, 0.5, 0.0, 0.0, 0.0, 0.3), 0.03, 0.08),
    "harp": Instrument(falling(14, 1.3), 0.004, 0.25, decay=0.9, damping=0.35),
    "guitar": Instrument(falling(16, 1.0), 0.003, 0.12, decay=0.7, damping=0.5),
    "mandolin": Instrument(falling(18, 0.8), 0.002, 0.08, decay=0.4, damping=0.4),
    "banjo": Instrument(falling(18, 0.6), 0.002, 0.05, decay=0.22, damping=0.25),
    "piano": Instrument(falling(16, 1.2), 0.004, 0.15, decay=1.1, damping=0.45, stretch=1.0004),
    "bells": Instrument((1.0, 0.6, 0.35, 0.2), 0.002, 0.5, decay=0.9, damping=0.5, stretch=1.7),
}
PROGRAMS = {  # of General MIDI
    "fiddle": 40, "flute": 73, "whistle": 78, "oboe": 68, "clarinet": 71, "pipes": 109, "accordion": 21, "concertina": 23, "organ": 19,
    "harp": 46, "guitar": 24, "mandolin": 25, "banjo": 105, "piano": 0, "bells": 9,
}  # fmt: skip


def render(tune: Tune, instrument: str) -> np.ndarray:
    """(N,) float32 at RATE: the tune with its repeats, and a tail."""
    step, player = tune.seconds_per_tick, INSTRUMENTS[instrument]
    out = np.zeros(int((tune.seconds + TAIL) * RATE) + 1, np.float32)
    at = 0
    for note in tune.played():
        begin, seconds = at * step, note.ticks * step
        at += note.ticks
        if note.pitch is not None:
            sound = tone(player, note.pitch, round(seconds, 4))
            start = round(begin * RATE)
            end = min(len(out), start + len(sound))
            out[start:end] += sound[: end - start]
    return out * (PEAK / max(float(np.abs(out).max()), 1e-9))


@lru_cache(maxsize=512)
def tone(player: Instrument, pitch: int, seconds: float) -> np.ndarray:
    """One note and its release."""
    count = int((seconds + player.release) * RATE)
    t = np.arange(count, dtype=np.float32) / RATE
    hz = 440 * 2 ** ((pitch - 69) / 12)
    # vibrato begins once the note stands
    depth = player.vibrato * np.clip((t - 0.15) / 0.2, 0, 1) * (2 ** (1 / 12) - 1)
    phase = 2 * np.pi * hz * (t - depth * np.cos(2 * np.pi * 5.5 * t) / (2 * np.pi * 5.5))
    out = np.zeros(count, np.float32)
    for k, amplitude in enumerate(player.partials, 1):
        ratio = k**player.stretch
        if hz * ratio > 0.45 * RATE or not amplitude:
            continue
        fall = np.exp(-t * (1 + player.damping * (k - 1)) / player.decay) if player.decay else 1.0
        out += amplitude * fall * np.sin(ratio * phase)
    if player.noise:
        out += player.noise * np.random.default_rng(pitch).normal(size=count).astype(np.float32)
    rise = np.clip(t / player.attack, 0, 1)
    end = np.clip((seconds + player.release - t) / player.release, 0, 1)
    return (out * rise * end**2 / sum(player.partials)).astype(np.float32)
