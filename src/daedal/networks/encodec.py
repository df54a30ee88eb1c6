"""EnCodec (Défossez et al. 2022), a codec of sound: a convolutional encoder and decoder with a
residual LSTM, and residual vector quantisation between them. The shapes at 24 kHz (causal), 32 kHz
(of MusicGen, not causal) and 48 kHz (stereo, in overlapping chunks, each with its loudness).

    codes = network.encode(samples, bandwidth=6.0)       # (B, C, N)
    samples = network.decode(codes)                      # (B, C, N), the same N

Legend: B sounds, C channels, N samples, D width, K codebooks, T frames."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.networks.config import one_of
from daedal.networks.names import Names
from daedal.nn.codebook import nearest_rows
from daedal.nn.conv import GroupNorm
from daedal.nn.conv1d import Conv1d, ConvTranspose1d
from daedal.nn.cost import count_flops

UNUSED = frozenset({"hop_length", "frame_rate", "codebook_nbits", "num_quantizers", "return_dict", "_name_or_path"})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EncodecConfig:
    target_bandwidths: tuple[float, ...] = (1.5, 3.0, 6.0, 12.0, 24.0)
    sampling_rate: int = 24000
    audio_channels: int = 1
    normalize: bool = False
    chunk_length_s: float | None = None
    overlap: float | None = None
    hidden_size: int = 128
    num_filters: int = 32
    num_residual_layers: int = 1
    upsampling_ratios: tuple[int, ...] = (8, 5, 4, 2)
    norm_type: str = "weight_norm"
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_growth_rate: int = 2
    use_causal_conv: bool = True
    pad_mode: str = "reflect"
    compress: int = 2
    num_lstm_layers: int = 2
    trim_right_ratio: float = 1.0
    codebook_size: int = 1024
    codebook_dim: int | None = None
    use_conv_shortcut: bool = True

    architecture: ClassVar[str] = "EncodecModel"
    model_type: ClassVar[str] = "encodec"
    ignored: ClassVar[frozenset[str]] = UNUSED

    def __post_init__(self) -> None:
        one_of("norm_type", self.norm_type, ("weight_norm", "time_group_norm"))

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        return math.prod(self.upsampling_ratios)

    @property
    def frame_rate(self) -> int:
        return math.ceil(self.sampling_rate / self.hop)

    @property
    def books(self) -> int:
        bits = math.ceil(math.log2(self.codebook_size))
        return int(1000 * self.target_bandwidths[-1] // (self.frame_rate * bits))

    @property
    def chunk(self) -> int | None:
        """Samples of a chunk; None of a model that takes sounds whole."""
        return int(self.chunk_length_s * self.sampling_rate) if self.chunk_length_s else None

    @property
    def stride(self) -> int | None:
        """Samples from chunk to chunk."""
        if self.chunk is None:
            return None
        return max(1, int((1.0 - (self.overlap or 0.0)) * self.chunk))


@dataclass(frozen=True)
class Codes:
    """A sound of `length` samples: of each chunk the codes (B, K, T) int64, and the loudness (B, 1)
    that its samples were divided by, where the model does so."""

    chunks: tuple[Tensor, ...]
    scales: tuple[Tensor | None, ...]
    length: int


class SeanetConv(nn.Module):
    """A convolution that keeps time: padded on the left where causal, on both sides else, and on
    the right to a whole number of strides."""

    def __init__(
        self, c: EncodecConfig, into: int, out: int, kernel: int, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv = Conv1d(into, out, kernel, stride, dilation=dilation)
        self.norm = GroupNorm(1, out) if c.norm_type == "time_group_norm" else None
        self.causal, self.mode, self.stride = c.use_causal_conv, c.pad_mode, stride
        self.span = (kernel - 1) * dilation + 1

    def forward(self, x: Tensor) -> Tensor:
        total = self.span - self.stride
        frames = math.ceil((x.shape[-1] - self.span + total) / self.stride + 1) - 1
        extra = frames * self.stride + self.span - total - x.shape[-1]
        right = 0 if self.causal else total // 2
        x = self.conv(padded(x, total - right, right + extra, self.mode))
        return x if self.norm is None else self.norm(x)


def padded(x: Tensor, left: int, right: int, mode: str) -> Tensor:
    """Padding that a short sound allows too: what is missing for a reflection is zeros."""
    if mode != "reflect":
        return F.pad(x, (left, right), mode="constant" if mode == "zero" else mode)
    missing = max(0, max(left, right) - x.shape[-1] + 1)
    out = F.pad(F.pad(x, (0, missing)), (left, right), mode="reflect")
    return out[..., : out.shape[-1] - missing]


class SeanetConvTranspose(nn.Module):
    def __init__(self, c: EncodecConfig, into: int, out: int, ratio: int) -> None:
        super().__init__()
        self.conv = ConvTranspose1d(into, out, 2 * ratio, ratio)
        self.norm = GroupNorm(1, out) if c.norm_type == "time_group_norm" else None
        self.right = math.ceil(ratio * c.trim_right_ratio) if c.use_causal_conv else ratio // 2
        self.left = ratio - self.right

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x if self.norm is None else self.norm(x)
        return x[..., self.left : x.shape[-1] - self.right]


class ResidualLSTM(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, layers)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.permute(2, 0, 1)
        return (self.lstm(steps)[0] + steps).permute(1, 2, 0)


class ResidualBlock(nn.Module):
    def __init__(self, c: EncodecConfig, width: int, dilation: int) -> None:
        super().__init__()
        inner = width // c.compress
        self.block = nn.Sequential(
            nn.ELU(),
            SeanetConv(c, width, inner, c.residual_kernel_size, dilation=dilation),
            nn.ELU(),
            SeanetConv(c, inner, width, 1),
        )
        self.shortcut = SeanetConv(c, width, width, 1) if c.use_conv_shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.block(x)


class Encoder(nn.Module):
    def __init__(self, c: EncodecConfig) -> None:
        super().__init__()
        width = c.num_filters
        layers: list[nn.Module] = [SeanetConv(c, c.audio_channels, width, c.kernel_size)]
        for ratio in reversed(c.upsampling_ratios):
            layers += blocks(c, width)
            layers += [nn.ELU(), SeanetConv(c, width, 2 * width, 2 * ratio, ratio)]
            width *= 2
        layers += [ResidualLSTM(width, c.num_lstm_layers), nn.ELU()]
        layers += [SeanetConv(c, width, c.hidden_size, c.last_kernel_size)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, N) -> (B, D, T)
        return self.layers(x)


class Decoder(nn.Module):
    def __init__(self, c: EncodecConfig) -> None:
        super().__init__()
        width = c.num_filters << len(c.upsampling_ratios)
        layers: list[nn.Module] = [SeanetConv(c, c.hidden_size, width, c.kernel_size)]
        layers += [ResidualLSTM(width, c.num_lstm_layers)]
        for ratio in c.upsampling_ratios:
            layers += [nn.ELU(), SeanetConvTranspose(c, width, width // 2, ratio)]
            width //= 2
            layers += blocks(c, width)
        layers += [nn.ELU(), SeanetConv(c, width, c.audio_channels, c.last_kernel_size)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:  # (B, D, T) -> (B, C, N)
        return self.layers(x)


def blocks(c: EncodecConfig, width: int) -> list[nn.Module]:
    return [
        ResidualBlock(c, width, c.dilation_growth_rate**j) for j in range(c.num_residual_layers)
    ]


class Codebook(nn.Module):
    def __init__(self, c: EncodecConfig) -> None:
        super().__init__()
        self.register_buffer("embed", torch.zeros(c.codebook_size, c.codebook_dim or c.hidden_size))

    embed: Tensor


class Quantizer(nn.Module):
    """Each codebook codes what those before it left over (Zeghidour et al. 2021)."""

    def __init__(self, c: EncodecConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict({"codebook": Codebook(c)}) for _ in range(c.books)
        )

    def tables(self) -> list[Tensor]:
        return [layer["codebook"].embed for layer in self.layers]  # type: ignore[index]

    def encode(self, latents: Tensor, books: int) -> Tensor:  # (B, D, T) -> (B, K, T)
        left, found = latents.mT, []
        for table in self.tables()[:books]:
            found.append(nearest_rows(left, table))
            left = left - table[found[-1]]
        return torch.stack(found, 1)

    def decode(self, codes: Tensor) -> Tensor:  # (B, K, T) -> (B, D, T)
        tables = self.tables()[: codes.shape[1]]
        return torch.stack([table[codes[:, k]] for k, table in enumerate(tables)]).sum(0).mT


class EncodecModel(nn.Module):
    config_class = EncodecConfig

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__()
        self.config = config
        normed = (".conv.",) if config.norm_type == "weight_norm" else ()
        constants = tuple(f"codebook.{name}" for name in ("inited", "cluster_size", "embed_avg"))
        self.names = Names(skipped=constants, weight_normed=normed)
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantizer = Quantizer(config)

    def books(self, bandwidth: float | None) -> int:
        """Codebooks of a bandwidth in kbit/s; the least that the model knows if None."""
        c = self.config
        asked = c.target_bandwidths[0] if bandwidth is None else bandwidth
        one_of("bandwidth", asked, c.target_bandwidths)
        return max(1, math.floor(asked * 1000 / (math.log2(c.codebook_size) * c.frame_rate)))

    def encode(self, samples: Tensor, bandwidth: float | None = None) -> Codes:
        """samples (B, C, N) at the model's rate -> codes."""
        c = self.config
        length, books = samples.shape[-1], self.books(bandwidth)
        if samples.shape[1] != c.audio_channels:
            raise DaedalError(
                f"the sound has {samples.shape[1]} channels, and this codec takes {c.audio_channels}; mix or double it first."
            )
        size, stride = c.chunk or length, c.stride or length
        chunks, scales = [], []
        for at in range(0, length, stride):
            part = samples[..., at : at + size]
            scale = None
            if c.normalize:
                loudness = part.mean(1, keepdim=True).pow(2).mean(-1, keepdim=True).sqrt() + 1e-8
                part, scale = part / loudness, loudness[:, :, 0]
            chunks.append(self.quantizer.encode(self.encoder(part), books))
            scales.append(scale)
        return Codes(tuple(chunks), tuple(scales), length)

    def decode(self, codes: Codes) -> Tensor:
        """(B, C, N) of the length that was encoded."""
        parts = []
        for chunk, scale in zip(codes.chunks, codes.scales, strict=True):
            part = self.decoder(self.quantizer.decode(chunk))
            parts.append(part if scale is None else part * scale[:, :, None])
        stride = self.config.stride
        whole = parts[0] if stride is None else overlapped(parts, stride)
        return whole[..., : codes.length]

    def flops(self, seconds: float = 1.0) -> int:
        """Floating-point operations of encoding and decoding; a multiply-add is two."""
        c = self.config
        size = (1, c.audio_channels, int(seconds * c.sampling_rate))
        return count_flops(self, lambda codec: codec.decode(codec.encode(torch.zeros(size))))


def overlapped(parts: list[Tensor], stride: int) -> Tensor:
    """Chunks (B, C, n) that begin `stride` samples apart, each faded in and out where it overlaps
    its neighbours: weighted by a triangle, over the sum of the weights."""
    size = parts[0].shape[-1]
    ramp = torch.linspace(0, 1, size + 2, device=parts[0].device, dtype=parts[0].dtype)[1:-1]
    triangle = 0.5 - (ramp - 0.5).abs()
    length = stride * (len(parts) - 1) + parts[-1].shape[-1]
    total, weights = parts[0].new_zeros(*parts[0].shape[:-1], length), parts[0].new_zeros(length)
    for i, part in enumerate(parts):
        weight = triangle[: part.shape[-1]]
        place = slice(i * stride, i * stride + part.shape[-1])
        total[..., place] += weight * part
        weights[place] += weight
    return total / weights
