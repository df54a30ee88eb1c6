"""The waveform autoencoder of Stable Audio (Evans et al. 2024, "Oobleck"): sound to latents 2048
times slower and back, by convolutions with periodic activations. The blocks are those of DAC
(networks.dac); the activation has an amplitude of its own, and both its numbers are logarithms.

    latents = network.encode(samples)        # (B, C, N) -> (B, D, T), the mean of the posterior
    samples = network.decode(latents)        # (B, D, T) -> (B, C, T * hop)

Legend: B sounds, C channels, N samples, D latent channels, T frames."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.networks.dac import DILATIONS, DecoderBlock, EncoderBlock
from daedal.networks.names import Names
from daedal.nn.conv1d import Conv1d, channels_last
from daedal.nn.cost import count_flops

AT_ONCE = 64  # frames that are decoded in one piece: three seconds


@dataclass(frozen=True, kw_only=True)
class OobleckConfig:
    encoder_hidden_size: int = 128
    downsampling_ratios: tuple[int, ...] = (2, 4, 4, 8, 8)
    channel_multiples: tuple[int, ...] = (1, 2, 4, 8, 16)
    decoder_channels: int = 128
    decoder_input_channels: int = 64
    audio_channels: int = 2
    sampling_rate: int = 44100

    class_name: ClassVar[str] = "AutoencoderOobleck"

    def __post_init__(self) -> None:
        if len(self.channel_multiples) != len(self.downsampling_ratios):
            raise DaedalError(
                f"channel_multiples has {len(self.channel_multiples)} entries for {len(self.downsampling_ratios)} downsampling_ratios; give one each."
            )

    @property
    def hop(self) -> int:
        return math.prod(self.downsampling_ratios)


class SnakeBeta(nn.Module):
    """x + sin^2(a x) / b (Ziyin et al. 2020; Lee et al. 2023), log a and log b of each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1, channels, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        alpha, beta = self.alpha.exp().to(x.dtype), self.beta.exp().to(x.dtype)
        return torch.addcmul(x, torch.sin(alpha * x).square_(), (beta + 1e-9).reciprocal())


class Encoder(nn.Module):
    def __init__(self, c: OobleckConfig) -> None:
        super().__init__()
        widths = [c.encoder_hidden_size * multiple for multiple in (1, *c.channel_multiples)]
        self.conv1 = Conv1d(c.audio_channels, widths[0], 7, padding=3)
        self.block = nn.Sequential(
            *(
                EncoderBlock(widths[i], widths[i + 1], stride, SnakeBeta)
                for i, stride in enumerate(c.downsampling_ratios)
            )
        )
        self.snake1 = SnakeBeta(widths[-1])
        self.conv2 = Conv1d(widths[-1], c.encoder_hidden_size, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, N) -> (B, 2 D, T)
        return self.conv2(self.snake1(self.block(self.conv1(x))))


class Decoder(nn.Module):
    def __init__(self, c: OobleckConfig) -> None:
        super().__init__()
        widths = [c.decoder_channels * multiple for multiple in (1, *c.channel_multiples)][::-1]
        self.conv1 = Conv1d(c.decoder_input_channels, widths[0], 7, padding=3)
        self.block = nn.Sequential(
            *(
                DecoderBlock(widths[i], widths[i + 1], stride, SnakeBeta)
                for i, stride in enumerate(c.downsampling_ratios[::-1])
            )
        )
        self.snake1 = SnakeBeta(widths[-1])
        self.conv2 = Conv1d(widths[-1], c.audio_channels, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, D, T) -> (B, C, N)
        return self.conv2(self.snake1(self.block(self.conv1(x))))


class AutoencoderOobleck(nn.Module):
    config_class = OobleckConfig
    class_name = OobleckConfig.class_name
    names = Names(weight_normed=("conv",), old_norm=True)

    def __init__(self, config: OobleckConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    @property
    def factor(self) -> int:
        """Samples of a frame."""
        return self.config.hop

    def encode(self, samples: Tensor) -> Tensor:
        """The posterior's mean (B, D, T); silence after the samples to a whole frame."""
        padded = F.pad(samples, (0, -samples.shape[-1] % self.config.hop))
        return self.encoder(padded).chunk(2, 1)[0]

    def decode(self, latents: Tensor) -> Tensor:
        """In pieces, in the memory of one."""
        return torch.cat(list(self.pieces(latents)), -1)

    def pieces(self, latents: Tensor) -> Iterator[Tensor]:
        """The sound (B, C, N) piece by piece, each decoded with all that reaches into it, so that
        together they are the sound of the whole but for rounding."""
        halo, hop, length = self.reach(), self.config.hop, latents.shape[-1]
        for at in range(0, length, AT_ONCE):
            begin, end = max(0, at - halo), min(length, at + AT_ONCE)
            made = self.decoder(channels_last(latents[..., begin : end + halo]))
            yield self.trimmed(made, begin, end + halo, length)[
                ..., (at - begin) * hop : (end - begin) * hop
            ]

    def trimmed(self, made: Tensor, begin: int, end: int, length: int) -> Tensor:
        """The samples of so many frames: odd strides come out a few short, which are silence."""
        wanted = (min(end, length) - begin) * self.config.hop
        return F.pad(made, (0, max(0, wanted - made.shape[-1])))

    def reach(self) -> int:
        """Frames on each side of one that the decoder hears."""
        total, rate = 3.0, 1
        for stride in self.config.downsampling_ratios[::-1]:
            total += 1.0 / rate
            rate *= stride
            total += 3 * sum(DILATIONS) / rate
        return math.ceil(total + 3 / rate) + 1

    def flops(self, seconds: float = 1.0) -> int:
        """Floating-point operations of encoding and decoding; a multiply-add is two."""
        c = self.config
        size = (1, c.audio_channels, int(seconds * c.sampling_rate))
        return count_flops(self, lambda vae: vae.decode(vae.encode(torch.zeros(size))))
