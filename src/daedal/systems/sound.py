"""What the systems of sound have beside those of pictures: seconds, samples and a rate.

    system = sound_system(parts)                     # parts as checkpoints.load_parts gives them
    shape = system.latent_shape(10.0)
    ...                                              # as any system is sampled (systems.system)
    for piece in system.pieces(latents, 10.0): ...   # (B, C, n) samples

Legend: B sounds, C channels, N samples."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from daedal.data.tokenizer import Tokenizer
from daedal.systems.system import System


class SoundSystem(System):
    """`defaults` are seconds, steps and guidance_scale."""

    rate: int  # samples a second
    sound_channels: int = 1
    longest: float  # seconds that it was trained to make
    tokenizers: list[Tokenizer]  # of what reads its prompts
    listener: Any = None  # a part of the folder that can tell how a sound fits a text

    def latent_shape(self, seconds: float) -> tuple[int, ...]:
        """Of one sound, without the batch."""
        raise NotImplementedError

    def from_samples(self, samples: Tensor, seconds: float) -> Tensor:
        """Samples (1, C, N) at the system's rate, cut or with silence behind them to its length, as
        latents (1, ...)."""
        raise NotImplementedError

    def pieces(self, latents: Tensor, seconds: float) -> Iterator[Tensor]:
        """The sound of latents (B, ...): samples (B, C, n), which together last `seconds`."""
        raise NotImplementedError


def cut(pieces: Iterator[Tensor], samples: int) -> Iterator[Tensor]:
    """The first so many samples of a sound that comes in pieces (B, C, n)."""
    for piece in pieces:
        yield piece[..., :samples]
        samples -= piece.shape[-1]
        if samples <= 0:
            return
