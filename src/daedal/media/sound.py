"""Functions of sound: resampling, spectra, mel and chroma bands, loudness. Plain numpy.

Legend: C channels, N samples, T frames, F frequency bins, M mel bands. Samples are float32 in
[-1, 1], rates in Hz, times in seconds."""

from collections.abc import Iterable, Iterator
from functools import cache
from math import ceil, gcd
from typing import Literal

import numpy as np

from daedal.errors import DaedalError

Samples = np.ndarray  # (C, N) float32

CROSSINGS = 32  # zero crossings of the sinc on each side: the width of the transition band
ROLLOFF = 0.95  # of the lower Nyquist frequency, where the passband ends
BETA = 12.0  # of the Kaiser window: stopband below -110 dB
BLOCK = 1 << 15  # output samples computed at once
SILENT = 1e-4  # -80 dBFS: below this peak nothing is heard


def resample(samples: np.ndarray, rate: int, to: int) -> np.ndarray:
    """(..., N) at `rate` -> (..., ceil(N * to / rate)) at `to`: a windowed-sinc polyphase filter
    (Smith, "Digital Audio Resampling")."""
    if rate == to:
        return samples
    flat = samples.reshape(-1, samples.shape[-1])
    made = np.concatenate(list(resample_blocks([flat], rate, to)), axis=-1)
    return made.reshape(*samples.shape[:-1], made.shape[-1])


def resample_blocks(blocks: Iterable[Samples], rate: int, to: int) -> Iterator[Samples]:
    """The same of a sound that comes in blocks (C, N): equal to `resample` of the whole, in the
    memory of a block."""
    resampler = Resampler(rate, to)
    for block in blocks:
        yield from resampler.push(block)
    yield from resampler.finish()


class Resampler:
    """From one rate to another, block by block."""

    def __init__(self, rate: int, to: int) -> None:
        if rate <= 0 or to <= 0:
            raise DaedalError(f"a sample rate of {min(rate, to)} Hz is none; give one above 0.")
        common = gcd(rate, to)
        self.down, self.up = rate // common, to // common
        self.taps = sinc_taps(self.down, self.up)
        self.half = self.taps.shape[1] // 2
        self.held: Samples | None = None  # the input from sample `start` on
        self.start, self.made, self.seen = -self.half, 0, 0

    def push(self, block: Samples) -> Iterator[Samples]:
        """What a block (C, N) makes ready. Output t stands at input t * down / up, and reads `half`
        samples on each side of it."""
        before = self.held
        before = np.zeros((len(block), self.half), np.float32) if before is None else before
        self.held = np.concatenate([before, block.astype(np.float32, copy=False)], axis=1)
        self.seen += block.shape[1]
        yield from self._until(max(self.made, ((self.seen - self.half) * self.up) // self.down))
        used = self.made * self.down // self.up - self.half - self.start
        self.held, self.start = self.held[:, used:], self.start + used

    def finish(self) -> Iterator[Samples]:
        """The rest, once all blocks have come."""
        if self.held is not None:
            end = np.zeros((len(self.held), self.half + 1), np.float32)
            self.held = np.concatenate([self.held, end], axis=1)
            yield from self._until(ceil(self.seen * self.up / self.down))

    def _until(self, last: int) -> Iterator[Samples]:
        if last <= self.made or self.held is None:
            return
        windows = np.lib.stride_tricks.sliding_window_view(self.held, self.taps.shape[1], axis=1)
        for begin in range(self.made, last, BLOCK):
            at = np.arange(begin, min(begin + BLOCK, last), dtype=np.int64) * self.down
            base, phase = at // self.up - self.half - self.start, self.taps[at % self.up]
            yield np.stack([np.einsum("tk,tk->t", each[base], phase) for each in windows])
        self.made = last


@cache
def sinc_taps(down: int, up: int) -> np.ndarray:
    """(up, K) float32: the filter of each phase between two input samples."""
    cutoff = min(1.0, up / down) * ROLLOFF
    half = ceil(CROSSINGS / cutoff)
    distance = np.arange(-half, half + 1)[None] - np.arange(up)[:, None] / up
    window = np.i0(BETA * np.sqrt(np.clip(1 - (distance / (half + 1)) ** 2, 0, 1))) / np.i0(BETA)
    taps = cutoff * np.sinc(cutoff * distance) * window
    return (taps / taps.sum(1, keepdims=True)).astype(np.float32)


def stft(samples: np.ndarray, n_fft: int, hop: int, window: int | None = None) -> np.ndarray:
    """(..., N) -> (..., n_fft // 2 + 1, 1 + N // hop) complex64, under a periodic Hann window of
    `window` samples (None: n_fft), each frame centred on a multiple of `hop`; the ends are
    reflected."""
    width = window or n_fft
    shape = np.zeros(n_fft)
    left = (n_fft - width) // 2
    shape[left : left + width] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)
    pad = [(0, 0)] * (samples.ndim - 1) + [(n_fft // 2, n_fft // 2)]
    mode: Literal["reflect", "constant"] = "reflect" if samples.shape[-1] > 1 else "constant"
    padded = np.pad(samples, pad, mode)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft, axis=-1)[..., ::hop, :]
    spectrum = np.fft.rfft(frames * shape.astype(np.float32), axis=-1)
    return np.swapaxes(spectrum, -1, -2).astype(np.complex64)


def hz_to_mel(hz: np.ndarray, scale: str = "slaney") -> np.ndarray:
    """The mel scale, of HTK (2595 log10(1 + f/700)) or of Slaney's toolbox (linear below 1 kHz)."""
    hz = np.asarray(hz, np.float64)
    if scale == "htk":
        return 2595 * np.log10(1 + hz / 700)
    step = np.log(6.4) / 27  # of the logarithmic part
    return np.where(hz < 1000, 3 * hz / 200, 15 + np.log(np.maximum(hz, 1e-9) / 1000) / step)


def mel_to_hz(mel: np.ndarray, scale: str = "slaney") -> np.ndarray:
    """The inverse of `hz_to_mel`."""
    mel = np.asarray(mel, np.float64)
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)))


@cache
def mel_filters(
    rate: int,
    n_fft: int,
    n_mels: int,
    low: float = 0.0,
    high: float | None = None,
    scale: str = "slaney",
    normed: bool = True,
) -> np.ndarray:
    """(M, F) float32 triangles over the bins of a spectrum; `normed` to an equal area each."""
    high = rate / 2 if high is None else high
    ends = hz_to_mel(np.array([low, high]), scale)
    edges = mel_to_hz(np.linspace(ends[0], ends[1], n_mels + 2), scale)
    bins = np.linspace(0, rate / 2, n_fft // 2 + 1)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.maximum(0, np.minimum(rise, fall))
    if normed:
        filters *= (2 / (edges[2:] - edges[:-2]))[:, None]
    return filters.astype(np.float32)


@cache
def chroma_filters(rate: int, n_fft: int) -> np.ndarray:
    """(12, F) float32: how much each bin counts as each pitch class from C on (Ellis, "Chroma
    feature analysis and synthesis"): a Gaussian of a semitone, heaviest about the fifth octave."""
    hz = np.arange(1, n_fft) * rate / n_fft
    semitones = 12 * np.log2(hz / (440 / 16))
    semitones = np.concatenate([[semitones[0] - 18], semitones])
    widths = np.concatenate([np.maximum(np.diff(semitones), 1), [1]])
    away = (semitones[None] - np.arange(12)[:, None] + 6) % 12 - 6
    weights = np.exp(-0.5 * (2 * away / widths) ** 2)
    weights /= np.linalg.norm(weights, axis=0, keepdims=True)
    weights *= np.exp(-0.5 * ((semitones / 12 - 5) / 2) ** 2)
    return np.roll(weights, -3, axis=0)[:, : n_fft // 2 + 1].astype(np.float32)  # from A to C


def chroma(samples: np.ndarray, rate: int, n_fft: int = 4096, hop: int = 1024) -> np.ndarray:
    """(..., N) -> (..., 12, T): the strength of each pitch class from C on, the largest of a frame
    at 1."""
    power = np.abs(stft(samples, n_fft, hop)) ** 2
    bands = chroma_filters(rate, n_fft) @ power
    return bands / np.maximum(bands.max(-2, keepdims=True), 1e-10)


def loudness(samples: Samples, rate: int) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770-4: K-weighting, 400 ms blocks, two gates); -inf
    where all is silent."""
    weighted = _k_weighted(np.atleast_2d(samples), rate)
    size, step = round(0.4 * rate), round(0.1 * rate)
    if weighted.shape[1] < size:
        weighted = np.pad(weighted, ((0, 0), (0, size - weighted.shape[1])))
    total = np.concatenate([[0.0], np.cumsum((weighted.astype(np.float64) ** 2).sum(0))])
    starts = np.arange(0, weighted.shape[1] - size + 1, step)
    power = np.maximum((total[starts + size] - total[starts]) / size, 1e-20)
    loud = power[_lufs(power) > -70]
    loud = loud[_lufs(loud) > _lufs(loud.mean()) - 10] if len(loud) else loud
    return float(_lufs(loud.mean())) if len(loud) else -np.inf


def _lufs(power: np.ndarray) -> np.ndarray:
    return -0.691 + 10 * np.log10(power)


def _k_weighted(samples: Samples, rate: int) -> Samples:
    """The two biquads of BS.1770 (a shelf for the head, a high-pass) at any rate, applied to the
    spectrum: a recursion in Python would take minutes for a song."""
    n = samples.shape[1]
    size = 1 << (n + rate).bit_length()  # a second of room, in which the filters ring out
    z = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    response = _shelf(z, rate) * _high_pass(z, rate)
    return np.fft.irfft(np.fft.rfft(samples, size) * response, size)[:, :n].astype(np.float32)


def _shelf(z: np.ndarray, rate: int) -> np.ndarray:
    """The first stage, whose analogue prototype gives the standard's numbers at 48 kHz."""
    k, q = np.tan(np.pi * 1681.974450955533 / rate), 0.7071752369554196
    top = 10 ** (3.999843853973347 / 20)
    mid = top**0.4996667741545416
    above = (top + mid * k / q + k * k) + 2 * (k * k - top) * z + (top - mid * k / q + k * k) * z**2
    below = (1 + k / q + k * k) + 2 * (k * k - 1) * z + (1 - k / q + k * k) * z**2
    return above / below


def _high_pass(z: np.ndarray, rate: int) -> np.ndarray:
    """The second stage."""
    k, q = np.tan(np.pi * 38.13547087602444 / rate), 0.5003270373238773
    below = 1 + 2 * (k * k - 1) / (1 + k / q + k * k) * z
    below = below + (1 - k / q + k * k) / (1 + k / q + k * k) * z**2
    return (1 - z) ** 2 / below


def check_heard(samples: Samples, name: str) -> None:
    """Raise where there is nothing to hear in a sound."""
    if not samples.size or np.abs(samples).max() < SILENT:
        raise DaedalError(f"{name} is silent: no sample reaches -80 dB; check how it was recorded.")
