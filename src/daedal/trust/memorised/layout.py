"""Pictures, sounds and clips as 192 bytes each, whose distance says how unlike two look or sound: of a
picture the means of 8 x 8 fields in three colours, of a clip those of its first, middle and last
frame in grey, of a sound 12 moments of 16 bands of 100 to 3,800 Hz in decibels below the loudest.
What survives another file format, size or bit rate is kept, and no content can be had back."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from daedal.media import audio, images, sound, video

SIZE = 192
SIDE, MOMENTS, BANDS = 8, 12, 16
RATE, WINDOW = 8000, 256
# the root of the mean squared difference, of 255, below which contents are said to be like
NEAR = {"picture": 6.0, "clip": 6.0, "sound": 12.0}
BOX = Image.Resampling.BOX


def of_picture(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3 or 4) uint8 -> (SIZE,) uint8."""
    small = Image.fromarray(images.over(pixels)).convert("RGB").resize((SIDE, SIDE), BOX)
    return np.asarray(small).reshape(-1)


def of_clip(frames: Sequence[np.ndarray]) -> np.ndarray:
    chosen = (frames[0], frames[len(frames) // 2], frames[-1])
    grey = [Image.fromarray(images.over(each)).convert("L") for each in chosen]
    return np.stack([np.asarray(each.resize((SIDE, SIDE), BOX)) for each in grey]).reshape(-1)


def of_sound(samples: np.ndarray) -> np.ndarray:
    """(N,) float32 at RATE -> (SIZE,) uint8."""
    padded = np.pad(samples, (0, max(0, WINDOW - len(samples))))
    power = np.abs(sound.stft(padded, WINDOW, WINDOW // 4)) ** 2  # (frequencies, frames)
    edges = (np.geomspace(100, 3800, BANDS + 1) * WINDOW / RATE).astype(int)
    edges = np.maximum(edges, np.arange(BANDS + 1) + edges[0])  # every band has a frequency
    bands = np.add.reduceat(power[: edges[-1]], edges[:-1], axis=0)
    moments = Image.fromarray(bands.astype(np.float32)).resize((MOMENTS, BANDS), BOX)
    level = np.asarray(moments)
    decibels = 10 * np.log10(np.maximum(level, 1e-12) / max(level.max(), 1e-9))
    return np.clip((decibels + 60) * 255 / 60, 0, 255).astype(np.uint8).reshape(-1)


def of_file(file: Path) -> tuple[str, np.ndarray] | None:
    """Its kind and layout, by the suffix; None of what is no such file."""
    suffix = file.suffix.lower()
    if suffix in audio.FORMATS:
        samples, _ = audio.open_audio(file, RATE, mono=True)
        return "sound", of_sound(samples[0])
    if suffix in (".jpg", ".jpeg"):
        return "picture", of_picture(images.open_image(file))
    if suffix in video.SUFFIXES:  # also still .png and .webp
        frames = [frame for frame, _ in video.read(file)]
        return ("picture", of_picture(frames[0])) if len(frames) == 1 else ("clip", of_clip(frames))
    return None


def apart(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distances of a layout (SIZE,) to others (n, SIZE), (n,) of 255."""
    difference = others.astype(np.float32) - one
    return np.sqrt(np.einsum("ni,ni->n", difference, difference) / SIZE)
