"""Fingerprints that stay nearly the same when a file is saved again: words of 64 bits, whose share of
differing bits says how unlike two contents are.

A picture has one word: the signs of the 64 lowest frequencies of its grey 32 x 32 copy against their
median (the DCT hash of Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash
Functions"). A clip has those of its first, middle and last frame. A sound has three: whether the
energy of a band grows against its neighbour's from one moment to the next (Haitsma & Kalker 2002),
of 25 moments and 9 bands. What is too plain to be told apart, a flat picture or silence, has none.

Legend: W words, F frames, N samples."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from daedal.media import audio, images, sound, video

SIDE, LOW = 32, 64
MOMENTS, BANDS = 25, 9
RATE, WINDOW = 8000, 1024
PLAIN = 1.0  # a picture whose grey levels spread less shows nothing to compare


@dataclass(frozen=True)
class Fingerprint:
    kind: str  # picture, clip, sound, or other
    words: np.ndarray  # (W,) uint64; of what cannot be compared none


def fingerprint(file: str | Path) -> Fingerprint:
    """That of a picture, clip or sound by its suffix."""
    suffix = Path(file).suffix.lower()
    if suffix in audio.FORMATS:
        samples, _ = audio.open_audio(file, RATE, mono=True)
        return Fingerprint("sound", of_sound(samples[0]))
    if suffix in (".jpg", ".jpeg"):
        return Fingerprint("picture", of_greys([grey(images.open_image(file))]))
    if suffix in video.SUFFIXES:  # also still .png and .webp
        greys = [grey(frame) for frame, _ in video.read(file)]
        if len(greys) == 1:
            return Fingerprint("picture", of_greys(greys))
        return Fingerprint("clip", of_greys([greys[0], greys[len(greys) // 2], greys[-1]]))
    return Fingerprint("other", np.empty(0, np.uint64))


def grey(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3 or 4) uint8 -> its grey copy (32, 32)."""
    picture = Image.fromarray(images.over(frame)).convert("L")
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)


def of_greys(greys: Sequence[np.ndarray]) -> np.ndarray:
    """Words (F,) of grey frames (32, 32); none where one is plain."""
    if min(picture.std() for picture in greys) < PLAIN:
        return np.empty(0, np.uint64)
    return np.array([word(_low_frequencies(picture)) for picture in greys], np.uint64)


def _low_frequencies(picture: np.ndarray) -> np.ndarray:
    """Which of the 64 lowest frequencies but the mean lie above their median, (64,) bool."""
    n = np.arange(SIDE)
    cosines = np.cos(np.pi / SIDE * n[:, None] * (n + 0.5))  # DCT-II, (frequency, place)
    u, v = np.divmod(np.argsort(np.add.outer(n, n).reshape(-1), kind="stable"), SIDE)
    found = (cosines @ picture @ cosines.T)[u[1 : LOW + 1], v[1 : LOW + 1]]
    return found > np.median(found)


def of_sound(samples: np.ndarray) -> np.ndarray:
    """Three words of a sound (N,) at 8 kHz; none of one that is silent or too short for its moments."""
    if len(samples) < MOMENTS * WINDOW // 4 or np.abs(samples).max() < 1e-4:
        return np.empty(0, np.uint64)
    power = np.abs(sound.stft(samples, WINDOW, WINDOW // 4)) ** 2  # (frequencies, frames)
    edges = (np.geomspace(300, 3400, BANDS + 1) * WINDOW / RATE).astype(int)
    bands = np.stack([power[a:b].sum(0) for a, b in itertools.pairwise(edges)])
    moments = [part.mean(-1) for part in np.array_split(bands, MOMENTS, axis=1)]
    slopes = np.diff(np.log(np.stack(moments) + 1e-9), axis=1)  # (moments, 8)
    return np.array(
        [word(bits) for bits in (np.diff(slopes, axis=0) > 0).reshape(-1, 64)], np.uint64
    )


def word(bits: np.ndarray) -> int:
    """(64,) bool as one number."""
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def differing(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Differing bits a word, in the mean over the words of each of `others` (n, W), (n,)."""
    bits = np.unpackbits((one ^ others).view(np.uint8), axis=-1)
    return bits.sum(-1) / others.shape[-1]
