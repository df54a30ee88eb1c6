"""The Descript Audio Codec (Kumar et al. 2023): a convolutional encoder and decoder with periodic
activations, and residual vector quantisation in few dimensions, where codes are looked up by angle.

    codes = network.encode(samples)          # (B, 1, N) -> (B, K, T) int64
    samples = network.decode(codes, N)       # (B, 1, N)

Legend: B sounds, N samples, D width, K codebooks, T frames."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.networks.names import Names
from daedal.nn.codebook import nearest_rows
from daedal.nn.conv1d import Conv1d, ConvTranspose1d
from daedal.nn.cost import count_flops
from daedal.nn.linear import Embedding

DILATIONS = (1, 3, 9)
UNUSED = frozenset({"hop_length", "hidden_size", "upsampling_ratios", "quantizer_dropout", "commitment_loss_weight", "codebook_loss_weight"})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DacConfig:
    encoder_hidden_size: int = 64
    downsampling_ratios: tuple[int, ...] = (2, 4, 8, 8)
    decoder_hidden_size: int = 1536
    n_codebooks: int = 9
    codebook_size: int = 1024
    codebook_dim: int = 8
    sampling_rate: int = 16000

    architecture: ClassVar[str] = "DacModel"
    model_type: ClassVar[str] = "dac"
    ignored: ClassVar[frozenset[str]] = UNUSED

    @property
    def hidden_size(self) -> int:
        return self.encoder_hidden_size << len(self.downsampling_ratios)

    @property
    def hop(self) -> int:
        return math.prod(self.downsampling_ratios)


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha (Ziyin et al. 2020), alpha of each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha.to(x.dtype)
        return x + (alpha + 1e-9).reciprocal() * torch.sin(alpha * x).pow(2)


Periodic = Callable[[int], nn.Module]  # channels -> activation


class ResidualUnit(nn.Module):
    def __init__(self, width: int, dilation: int, snake: Periodic = Snake) -> None:
        super().__init__()
        self.snake1, self.snake2 = snake(width), snake(width)
        self.conv1 = Conv1d(width, width, 7, dilation=dilation, padding=3 * dilation)
        self.conv2 = Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.snake2(self.conv1(self.snake1(x))))


class EncoderBlock(nn.Module):
    def __init__(self, width: int, out: int, stride: int, snake: Periodic = Snake) -> None:
        super().__init__()
        self.res_unit1, self.res_unit2, self.res_unit3 = (
            ResidualUnit(width, d, snake) for d in DILATIONS
        )
        self.snake1 = snake(width)
        self.conv1 = Conv1d(width, out, 2 * stride, stride, padding=math.ceil(stride / 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.res_unit3(self.res_unit2(self.res_unit1(x)))
        return self.conv1(self.snake1(x))


class DecoderBlock(nn.Module):
    def __init__(self, width: int, out: int, stride: int, snake: Periodic = Snake) -> None:
        super().__init__()
        self.snake1 = snake(width)
        self.conv_t1 = ConvTranspose1d(width, out, 2 * stride, stride, math.ceil(stride / 2))
        self.res_unit1, self.res_unit2, self.res_unit3 = (
            ResidualUnit(out, d, snake) for d in DILATIONS
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_t1(self.snake1(x))
        return self.res_unit3(self.res_unit2(self.res_unit1(x)))


class Encoder(nn.Module):
    def __init__(self, c: DacConfig) -> None:
        super().__init__()
        width = c.encoder_hidden_size
        self.conv1 = Conv1d(1, width, 7, padding=3)
        self.block = nn.Sequential(
            *(
                EncoderBlock(width << i, 2 * width << i, stride)
                for i, stride in enumerate(c.downsampling_ratios)
            )
        )
        self.snake1 = Snake(c.hidden_size)
        self.conv2 = Conv1d(c.hidden_size, c.hidden_size, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # (B, 1, N) -> (B, D, T)
        return self.conv2(self.snake1(self.block(self.conv1(x))))


class Decoder(nn.Module):
    def __init__(self, c: DacConfig) -> None:
        super().__init__()
        width, ratios = c.decoder_hidden_size, c.downsampling_ratios[::-1]
        self.conv1 = Conv1d(c.hidden_size, width, 7, padding=3)
        self.block = nn.Sequential(
            *(DecoderBlock(width >> i, width >> i + 1, stride) for i, stride in enumerate(ratios))
        )
        self.snake1 = Snake(width >> len(ratios))
        self.conv2 = Conv1d(width >> len(ratios), 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:  # (B, D, T) -> (B, 1, N)
        return self.conv2(self.snake1(self.block(self.conv1(x)))).tanh()


class Book(nn.Module):
    """Codes are looked up where both sides have length 1, and stand for rows as they are."""

    def __init__(self, c: DacConfig) -> None:
        super().__init__()
        self.in_proj = Conv1d(c.hidden_size, c.codebook_dim, 1)
        self.out_proj = Conv1d(c.codebook_dim, c.hidden_size, 1)
        self.codebook = Embedding(c.codebook_size, c.codebook_dim)

    def encode(self, latents: Tensor) -> Tensor:  # (B, D, T) -> (B, T)
        x = F.normalize(self.in_proj(latents).mT, dim=-1)
        return nearest_rows(x, F.normalize(self.codebook.weight.to(x.dtype), dim=-1))

    def decode(self, codes: Tensor) -> Tensor:  # (B, T) -> (B, D, T)
        return self.out_proj(self.codebook(codes).mT)


class Quantizer(nn.Module):
    def __init__(self, c: DacConfig) -> None:
        super().__init__()
        self.quantizers = nn.ModuleList(Book(c) for _ in range(c.n_codebooks))

    def encode(self, latents: Tensor, books: int | None) -> Tensor:  # (B, D, T) -> (B, K, T)
        found = []
        for book in list(self.quantizers)[:books]:
            found.append(book.encode(latents))  # type: ignore[operator]
            latents = latents - book.decode(found[-1])  # type: ignore[operator]
        return torch.stack(found, 1)

    def decode(self, codes: Tensor) -> Tensor:  # (B, K, T) -> (B, D, T)
        books = list(self.quantizers)[: codes.shape[1]]
        return torch.stack([book.decode(codes[:, k]) for k, book in enumerate(books)]).sum(0)  # type: ignore[operator]


class DacModel(nn.Module):
    config_class = DacConfig
    names = Names()

    def __init__(self, config: DacConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantizer = Quantizer(config)

    def encode(self, samples: Tensor, books: int | None = None) -> Tensor:
        """samples (B, 1, N) at the model's rate, silence after them to whole frames -> codes
        (B, K, T), of the first `books` codebooks or of all."""
        padded = F.pad(samples, (0, -samples.shape[-1] % self.config.hop))
        return self.quantizer.encode(self.encoder(padded), books)

    def decode(self, codes: Tensor, length: int) -> Tensor:
        """(B, 1, length). Odd strides come out a few samples short, which are silence."""
        made = self.decoder(self.quantizer.decode(codes))[..., :length]
        return F.pad(made, (0, length - made.shape[-1]))

    def flops(self, seconds: float = 1.0) -> int:
        """Floating-point operations of encoding and decoding; a multiply-add is two."""
        size = int(seconds * self.config.sampling_rate)
        return count_flops(self, lambda dac: dac.decode(dac.encode(torch.zeros(1, 1, size)), size))
