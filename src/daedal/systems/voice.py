"""A voice that reads sentences: phonemes or letters as conditioning, a VITS as network, its decoder
as codec, one pass as process.

    voice = Voice.load(folder, torch.float32)
    said = voice.said(sentence, Manner(speed=1.1))
    for samples in said.blocks: ...                          # (N,) float32, as they are made
    said.words                                               # what is spoken when

Houses, Piper voices and MMS folders are read. Legend: C channels of the latents, F frames, N
samples."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daedal import checkpoints
from daedal.checkpoints import piper
from daedal.data.phonemes.reader import Sentence
from daedal.data.phonemes.symbols import Letters, Phonemes, Tokens, symbols_of
from daedal.errors import DaedalError, nearest
from daedal.media.sound import resample_blocks
from daedal.networks.vits import VitsModel
from daedal.nn.conv1d import channels_last

ABOUT = "voice.json"  # of a house voice
KEPT = ("audio", "espeak", "phoneme_type", "phoneme_id_map", "speaker_id_map")
FIRST, BLOCK = 40, 240  # frames of the first block of a sentence, and of the others
STRETCH, LOUDER = 1.3, 1.35  # an emphasised word's duration and amplitude
FADE = 64  # samples over which a change of amplitude is spread


@dataclass(frozen=True)
class Manner:
    """How something is said. `noise` None is the voice's own: how freely it varies."""

    speed: float = 1.0
    pitch: float = 0.0  # semitones
    energy: float = 1.0
    noise: float | None = None
    speaker: int | None = None


@dataclass(frozen=True)
class Spoken:
    """A word, and when it is heard, in seconds from the sentence's beginning."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Said:
    """A sentence on its way: when its words are heard, how long it is, and its samples."""

    words: tuple[Spoken, ...]
    seconds: float
    blocks: Iterator[np.ndarray]


def holds(folder: Path) -> bool:
    """Whether a folder, or an ONNX file, is a voice."""
    if piper.is_piper(folder):
        return True
    config = folder / "config.json"
    raw = json.loads(config.read_text()) if config.is_file() else {}
    return raw.get("model_type") == "vits"


class Voice:
    """A VITS and how it numbers what it reads."""

    def __init__(
        self,
        vits: VitsModel,
        symbols: Phonemes | Letters,
        dtype: torch.dtype = torch.float32,
        speakers: dict[str, int] | None = None,
    ) -> None:
        self.vits, self.symbols, self.dtype = vits, symbols, dtype
        self.speakers = speakers or {str(i): i for i in range(vits.config.num_speakers)}
        for part in (vits.text_encoder, vits.flow, vits.decoder):  # durations stay in fp32
            part.to(dtype)

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> "Voice":
        if file := piper.voice_file(folder):
            vits, about = piper.load(file)
            return cls(vits.to(device), symbols_of(about), dtype, about.get("speaker_id_map"))
        vits = checkpoints.load(folder, torch.float32, device, kind=VitsModel)
        if (folder / ABOUT).exists():
            return cls(vits, symbols_of(json.loads((folder / ABOUT).read_text())), dtype)
        return cls(vits, Letters.load(folder), dtype)

    @property
    def rate(self) -> int:
        return self.vits.config.sampling_rate

    def speaker(self, name: str | None) -> int | None:
        """The number of a speaker's name, of a voice of several."""
        if self.vits.config.num_speakers == 1:
            if name is not None:
                raise DaedalError(f"speaker={name!r} does not apply: this voice has one speaker.")
            return None
        if name is None:
            return 0
        if name not in self.speakers:
            known = list(self.speakers)
            raise DaedalError(
                f"speaker {name!r} is not one of this voice's{nearest(name, known)}: {', '.join(known[:12])}."
            )
        return self.speakers[name]

    @torch.inference_mode()
    def said(self, sentence: Sentence, manner: Manner, seed: int = 0) -> Said:
        """Plan a sentence, so that its words' times are known; its samples come as they are asked
        for. Raises DaedalError where the voice knows none of its phonemes."""
        tokens, ratio = self.symbols(sentence.words), pitch_ratio(manner.pitch)
        frames, latents = self._latents(tokens, sentence, manner, float(ratio), seed)
        hop = self.vits.config.hop / self.rate / float(ratio)
        ends = frames.cumsum(0).tolist()
        words = spoken(tokens, sentence, ends, hop)
        gains = self._gains(tokens, sentence, frames, manner)
        blocks = self._samples(latents, gains, manner)
        if ratio != 1:
            wide = (block[None] for block in blocks)
            shifted = resample_blocks(wide, ratio.numerator, ratio.denominator)
            blocks = (block[0] for block in shifted)
        return Said(words, ends[-1] * hop, blocks)

    def _latents(
        self, tokens: Tokens, sentence: Sentence, manner: Manner, ratio: float, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Frames of each token (T,), and latents (1, C, F)."""
        c, noise = self.vits.config, torch.Generator().manual_seed(seed)
        student = c.student_blocks > 0  # it has learnt what the voice says without noise
        own, own_durations = (0.0, 0.0) if student else (c.noise_scale, c.noise_scale_duration)
        scales = (own, own_durations) if manner.noise is None else (manner.noise,) * 2
        device = self.vits.text_encoder.project.weight.device
        hidden, mean, log_std = self.vits.encode(torch.tensor([tokens.ids], device=device))
        hidden, kind = hidden.float(), self.dtype
        speaker = self._embedding(manner.speaker, device)
        slow = ratio / (manner.speed * c.speaking_rate)
        frames = self.vits.frames(hidden, None, speaker, slow, scales[1], noise)
        stretch = [STRETCH if loud(sentence, word) else 1.0 for word in tokens.words]
        frames = (frames * torch.tensor(stretch, device=device)).ceil()
        scale = 0.0 if student else scales[0]
        speaker = None if speaker is None else speaker.to(kind)
        mean, log_std = channels_last(mean), channels_last(log_std)
        latents = self.vits.latents(mean, log_std, frames, speaker, scale, noise)
        return frames[0].long().cpu(), latents

    def _embedding(self, speaker: int | None, device: torch.device) -> Tensor | None:
        if speaker is None:
            return None
        return self.vits.speaker(torch.tensor([speaker], device=device))

    def _gains(
        self, tokens: Tokens, sentence: Sentence, frames: Tensor, manner: Manner
    ) -> np.ndarray | float:
        """The amplitude of each sample (N,), or one of all."""
        if not any(word.emphasised for word in sentence.words):
            return manner.energy
        own = [LOUDER if loud(sentence, word) else 1.0 for word in tokens.words]
        each = np.repeat(own, (frames * self.vits.config.hop).numpy()) * manner.energy
        return np.convolve(
            np.pad(each, FADE, "edge"), np.ones(2 * FADE + 1) / (2 * FADE + 1), "valid"
        )

    def _samples(
        self, latents: Tensor, gains: np.ndarray | float, manner: Manner
    ) -> Iterator[np.ndarray]:
        """Blocks of samples. Each is decoded with as many frames about it as reach into it, so that
        the blocks are those of the whole."""
        hop, at = self.vits.config.hop, 0
        speaker = self._embedding(manner.speaker, latents.device)
        speaker = None if speaker is None else speaker.to(self.dtype)
        for first, last, samples in decoded(self.vits, latents, speaker):
            part = gains if isinstance(gains, float | int) else gains[first * hop : last * hop]
            yield np.clip(samples * part, -1, 1).astype(np.float32)
            at = last
        assert at == latents.shape[-1]


@torch.inference_mode()
def decoded(
    vits: VitsModel, latents: Tensor, speaker: Tensor | None = None
) -> Iterator[tuple[int, int, np.ndarray]]:
    """(first frame, last, samples) of latents (1, C, F), block by block."""
    length, halo, hop = latents.shape[-1], vits.decoder.reach(), vits.config.hop
    first = 0
    while first < length:
        last = min(length, first + (BLOCK if first else FIRST))
        begin, end = max(0, first - halo), min(length, last + halo)
        with torch.inference_mode():
            samples = vits.decode(latents[..., begin:end], speaker)[0]
        yield (
            first,
            last,
            samples[(first - begin) * hop : (last - begin) * hop].float().cpu().numpy(),
        )
        first = last


def pitch_ratio(semitones: float) -> Fraction:
    """The ratio of frequencies, of small numbers."""
    return Fraction(2 ** (semitones / 12)).limit_denominator(64)


def loud(sentence: Sentence, word: int) -> bool:
    return word >= 0 and sentence.words[word].emphasised


def spoken(tokens: Tokens, sentence: Sentence, ends: list[float], hop: float) -> tuple[Spoken, ...]:
    """When each word is heard."""
    times: dict[int, tuple[float, float]] = {}
    for i, word in enumerate(tokens.words):
        if word >= 0:
            start = ends[i - 1] * hop if i else 0.0
            times[word] = (times.get(word, (start, 0.0))[0], ends[i] * hop)
    return tuple(Spoken(sentence.words[w].text, *times[w]) for w in sorted(times))


def write_about(folder: Path, about: dict[str, Any]) -> None:
    """voice.json: what a Piper voice's JSON says that is needed beside the weights."""
    kept = {key: about[key] for key in KEPT if key in about}
    (folder / ABOUT).write_text(json.dumps(kept, ensure_ascii=False) + "\n")


def quantize(folder: Path, out: Path, bits: int) -> None:
    """A voice in 8 bits, or with the layers of its encoder and its flow, six sevenths of the weights,
    in 4; the decoder, whose rounding would be heard, in 8."""
    file = piper.voice_file(folder)
    vits, about = piper.load(file) if file else (checkpoints.load(folder, torch.float32), None)
    whole = about if file else json.loads((folder / ABOUT).read_text())

    def width(name: str) -> int:
        return 4 if bits == 4 and (".layers." in name or name.startswith("flow.")) else 8

    checkpoints.save(vits, out, compact=width)
    write_about(out, whole or {})
