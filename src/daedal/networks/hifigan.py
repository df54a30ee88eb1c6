"""HiFi-GAN (Kong et al. 2020) as the vocoder of AudioLDM and SpeechT5: log-mel frames to samples.

    samples = network(mel)          # (B, T, M) -> (B, 1, T * hop)

Legend: B sounds, T frames, M mel bands."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from daedal.networks.config import EVERYTHING
from daedal.networks.names import Names
from daedal.nn.conv1d import HifiGan
from daedal.nn.cost import count_flops


@dataclass(frozen=True, kw_only=True)
class SpeechT5HifiGanConfig:
    model_in_dim: int = 80
    sampling_rate: int = 16000
    upsample_initial_channel: int = 512
    upsample_rates: tuple[int, ...] = (4, 4, 4, 4)
    upsample_kernel_sizes: tuple[int, ...] = (8, 8, 8, 8)
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    leaky_relu_slope: float = 0.1
    normalize_before: bool = True

    architecture: ClassVar[str] = "SpeechT5HifiGan"
    model_type: ClassVar[str] = "hifigan"
    ignored: ClassVar[frozenset[str]] = EVERYTHING

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        return math.prod(self.upsample_rates)


class SpeechT5HifiGan(nn.Module):
    config_class = SpeechT5HifiGanConfig
    names = Names(own="decoder.")
    mean: Tensor
    scale: Tensor

    def __init__(self, config: SpeechT5HifiGanConfig) -> None:
        super().__init__()
        self.config, c = config, config
        self.decoder = HifiGan(
            c.model_in_dim,
            c.upsample_initial_channel,
            c.upsample_rates,
            c.upsample_kernel_sizes,
            c.resblock_kernel_sizes,
            c.resblock_dilation_sizes,
            c.leaky_relu_slope,
            post_bias=True,
        )
        self.register_buffer("mean", torch.zeros(c.model_in_dim))
        self.register_buffer("scale", torch.ones(c.model_in_dim))

    def forward(self, mel: Tensor) -> Tensor:
        if self.config.normalize_before:
            mel = (mel - self.mean) / self.scale
        return self.decoder(mel.mT)

    def flops(self, seconds: float = 1.0) -> int:
        """Floating-point operations of so many seconds; a multiply-add is two."""
        c = self.config
        frames = round(seconds * c.sampling_rate / c.hop)
        return count_flops(self, lambda gan: gan(torch.zeros(1, frames, c.model_in_dim)))
