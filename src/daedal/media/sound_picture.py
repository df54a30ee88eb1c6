"""A sound as a picture: its waveform above its spectrogram, with seconds and Hz, drawn with Pillow."""

import numpy as np
from PIL import Image, ImageDraw

from daedal.media.images import Pixels
from daedal.media.plots import FINE, GREY, INK, PALE, font, ticks
from daedal.media.sound import hz_to_mel, mel_filters, stft

WIDTH = 920
LEFT, RIGHT, TOP, GAP, BOTTOM = 62, 18, 34, 14, 40  # margins, in points
WAVE, BANDS = 96, 236  # heights of the two panels
N_FFT, RANGE = 1024, 80.0  # of the spectrogram: window, and decibels from black to white
BLUE = "#2f6db3"
# the colours of a spectrogram from silent to loud: dark blue, violet, orange, pale yellow
RAMP = np.array(
    [[8, 8, 24], [58, 18, 102], [150, 38, 116], [228, 88, 74], [252, 170, 76], [252, 250, 206]]
)


def picture(samples: np.ndarray, rate: int, title: str = "") -> Pixels:
    """(H, W, 3) uint8 of (C, N) or (N,) samples; channels are drawn as their mean."""
    mono = np.atleast_2d(samples).mean(0)
    high = TOP + WAVE + GAP + BANDS + BOTTOM
    image = Image.new("RGB", (FINE * WIDTH, FINE * high), "white")
    draw = ImageDraw.Draw(image)
    _text(draw, LEFT, TOP - 11, title, 14, "ls", INK)
    _wave(draw, mono)
    bands = spectrogram(mono, rate)
    size = (FINE * (WIDTH - LEFT - RIGHT), FINE * BANDS)
    drawn = Image.fromarray(bands).resize(size, Image.Resampling.BICUBIC)
    image.paste(drawn, (FINE * LEFT, FINE * (TOP + WAVE + GAP)))
    _axes(draw, len(mono) / rate, rate)
    return np.asarray(image.reduce(2))


def spectrogram(mono: np.ndarray, rate: int) -> Pixels:
    """(M, T, 3) uint8: the power in mel bands, high ones on top, `RANGE` decibels below its
    largest and down in colours."""
    n_fft = min(N_FFT, 1 << max(4, rate // 20).bit_length())
    hop = max(n_fft // 8, len(mono) // (2 * WIDTH))
    power = np.abs(stft(mono, n_fft, hop)) ** 2
    decibels = 10 * np.log10(mel_filters(rate, n_fft, 96, normed=False) @ power + 1e-12)
    shade = np.clip(1 + (decibels - decibels.max()) / RANGE, 0, 1) * (len(RAMP) - 1)
    low = np.minimum(shade.astype(int), len(RAMP) - 2)
    part = (shade - low)[..., None]
    return (RAMP[low] * (1 - part) + RAMP[low + 1] * part)[::-1].astype(np.uint8)


def _wave(draw: ImageDraw.ImageDraw, mono: np.ndarray) -> None:
    """The lowest and highest sample of each column, about a middle line."""
    columns, middle = 2 * (WIDTH - LEFT - RIGHT), TOP + WAVE / 2
    top = max(float(np.abs(mono).max(initial=0)), 1e-3)
    edges = np.linspace(0, len(mono), columns + 1).astype(int)
    draw.line(_points([(LEFT, middle), (WIDTH - RIGHT, middle)]), fill=PALE, width=FINE)
    for i in range(columns if len(mono) else 0):
        piece = mono[edges[i] : max(edges[i + 1], edges[i] + 1)]
        high, low = (middle - value / top * WAVE / 2 for value in (piece.max(), piece.min()))
        x = LEFT + i / 2
        draw.line(_points([(x, high), (x, low)]), fill=BLUE, width=FINE // 2)
    _text(draw, LEFT - 8, middle, "wave", 11, "rm", GREY)


def _axes(draw: ImageDraw.ImageDraw, seconds: float, rate: int) -> None:
    floor, wide = TOP + WAVE + GAP + BANDS, WIDTH - LEFT - RIGHT
    for value in ticks(0, max(seconds, 1e-3), 9):
        x = LEFT + value / max(seconds, 1e-3) * wide
        draw.line(_points([(x, floor), (x, floor + 4)]), fill=GREY, width=FINE)
        _text(draw, x, floor + 7, f"{value:.6g} s", 11, "ma", GREY)
    steps = [hz for hz in (250, 500, 1000, 2000, 4000, 8000, 16000) if hz < 0.95 * rate / 2]
    for hz in steps:
        y = floor - float(hz_to_mel(np.array(hz)) / hz_to_mel(np.array(rate / 2))) * BANDS
        draw.line(_points([(LEFT - 4, y), (LEFT, y)]), fill=GREY, width=FINE)
        _text(draw, LEFT - 8, y, f"{hz / 1000:g} kHz" if hz >= 1000 else f"{hz} Hz", 11, "rm", GREY)


def _points(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(FINE * x, FINE * y) for x, y in points]


def _text(
    draw: ImageDraw.ImageDraw, x: float, y: float, text: str, size: int, anchor: str, colour: str
) -> None:
    draw.text((FINE * x, FINE * y), text, fill=colour, font=font(size), anchor=anchor)
