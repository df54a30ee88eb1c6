"""MusicGen as generation needs it: prompts as T5's states, codes drawn column by column under the
delay pattern with classifier-free guidance, and sound from codes.

Legend: n pieces of one prompt, K codebooks, F frames, T columns (F + K - 1 and the first)."""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from daedal import checkpoints
from daedal.data.tokenizer import Tokenizer
from daedal.media.sound import chroma
from daedal.networks.encodec import Codes
from daedal.networks.musicgen import (
    MusicgenForConditionalGeneration,
    MusicgenMelodyForConditionalGeneration,
)
from daedal.nn.quantized import quantize_

FRAME, LONGEST = 16384, 30.0  # samples of a frame of a melody, and the seconds that are read


@dataclass
class MusicGen:
    network: MusicgenForConditionalGeneration
    tokenizer: Tokenizer

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: str = "auto") -> "MusicGen":
        """A folder of transformers. `dtype` auto runs the decoder on a CPU with weights of 8 bits."""
        wanted = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(dtype, torch.float32)
        kind = MusicgenForConditionalGeneration
        network = checkpoints.load(folder, wanted, device, kind=kind)
        if dtype == "auto" and device.type == "cpu":
            quantize_(network.lm, 8)
        network.audio_encoder.float()
        return cls(network, Tokenizer.load(folder))

    @property
    def rate(self) -> int:
        return self.network.audio_encoder.config.sampling_rate

    @property
    def frame_rate(self) -> int:
        return self.network.audio_encoder.config.frame_rate

    @property
    def channels(self) -> int:
        return self.network.lm.config.audio_channels

    @property
    def follows(self) -> bool:
        """Whether it can be given a melody."""
        return isinstance(self.network, MusicgenMelodyForConditionalGeneration)

    def encode(self, prompt: str, melody: np.ndarray | None = None) -> Tensor:
        """A prompt as the states (1, S, D) that the decoder reads, after those of a `melody` (N,)
        at the model's rate."""
        ids = self.tokenizer.encode(prompt)
        end = self.network.text_encoder.config.eos_token_id
        if end is not None and (not ids or ids[-1] != end):
            ids = [*ids, end]
        tokens = torch.tensor([ids], device=self.network.lm.layer_norm.weight.device)
        if melody is None:
            return self.network.read(tokens)
        return self.network.read(tokens, pitch_classes(melody, self.rate))  # type: ignore[call-arg]

    def sound(self, codes: Tensor) -> Tensor:
        """Codes (n, K, F) -> samples (n, C, N)."""
        codec = self.network.audio_encoder
        length = codes.shape[2] * codec.config.hop
        sides = [codes[:, side :: self.channels] for side in range(self.channels)]
        return torch.cat([codec.decode(Codes((side,), (None,), length)) for side in sides], 1)

    def codes(self, samples: Tensor) -> Tensor:
        """Samples (1, C, N) -> codes (1, K, F), left and right in turn."""
        codec = self.network.audio_encoder
        best = codec.config.target_bandwidths[-1]
        sides = [
            codec.encode(samples[:, side : side + 1], best).chunks[0]
            for side in range(self.channels)
        ]
        return torch.stack(sides, 2).flatten(1, 2)


def pitch_classes(samples: np.ndarray, rate: int) -> Tensor:
    """The strongest pitch class of each frame of a melody (N,), as (1, T, 12), one of them 1."""
    short = max(0, FRAME - len(samples))
    samples = np.pad(samples[: round(LONGEST * rate)], (short // 2, short - short // 2))
    strengths = torch.from_numpy(chroma(samples, rate, FRAME, FRAME // 4))
    return F.one_hot(strengths.argmax(0), 12)[None].float()


def delayed(codes: Tensor, delays: list[int], frames: int, pad: int) -> tuple[Tensor, Tensor]:
    """Given codes (n, K, f) of the first frames -> (columns (n, K, T), which of them are to be drawn
    (K, T)): frame i of codebook k stands in column i + 1 + its delay, and `pad` where none does."""
    n, K, given = codes.shape
    T = frames + max(delays) + 1
    columns = codes.new_full((n, K, T), pad)
    open_ = torch.zeros(K, T, dtype=torch.bool, device=codes.device)
    for k, delay in enumerate(delays):
        columns[:, k, 1 + delay : 1 + delay + given] = codes[:, k]
        open_[k, 1 + delay + given : 1 + delay + frames] = True
    return columns, open_


def undelayed(columns: Tensor, delays: list[int], frames: int) -> Tensor:
    """Columns (n, K, T) -> codes (n, K, F)."""
    return torch.stack([columns[:, k, 1 + d : 1 + d + frames] for k, d in enumerate(delays)], 1)


@torch.inference_mode()
def composed(
    music: MusicGen,
    states: Tensor,
    given: Tensor,
    frames: int,
    guidance_scale: float,
    temperature: float,
    top_k: int,
    noise: torch.Generator,
) -> Generator[int, None, Tensor]:
    """Draw codes (n, K, F), those `given` (n, K, f) first; yields the columns that are done. The
    guide reads no prompt: its states are zeros (Copet et al. 2023, section 2)."""
    lm, n = music.network.lm, len(given)
    guided = guidance_scale > 1
    columns, open_ = delayed(given, lm.config.delays, frames, lm.config.vocab_size)
    both = torch.cat([states, music.network.unguided(states)]) if guided else states
    cache = music.network.cache(both, (1 + guided) * n, columns.shape[2])
    first = int(open_.any(0).nonzero()[0]) if open_.any() else columns.shape[2]
    fed = columns[:, :, :first]
    for at in range(first, columns.shape[2]):
        logits = lm(torch.cat([fed, fed]) if guided else fed, cache, last=True)[:, :, 0]
        if guided:
            plain = logits[n:]
            logits = plain + guidance_scale * (logits[:n] - plain)
        chosen = drawn(logits, temperature, top_k, noise)
        columns[:, :, at] = torch.where(open_[:, at], chosen, columns[:, :, at])
        fed = columns[:, :, at : at + 1]
        yield at
    return undelayed(columns, lm.config.delays, frames)


def drawn(logits: Tensor, temperature: float, top_k: int, noise: torch.Generator) -> Tensor:
    """One code of each row: logits (n, K, V) -> (n, K)."""
    if not temperature:
        return logits.argmax(-1)
    logits = logits / temperature
    if top_k:
        least = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    shares = logits.softmax(-1).flatten(0, 1).cpu()
    picks = torch.multinomial(shares, 1, generator=noise)
    return picks.view(logits.shape[:-1]).to(logits.device)
