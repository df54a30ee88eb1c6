"""StyleGAN2 (Karras et al. 2020): a mapping network turns z into styles w, which scale the weights
of every convolution of the generator; a residual discriminator. Parameter names are those of the
authors' later releases, so that converted weights load as they are.

Everything is equalised: parameters are stored at unit scale and multiplied by 1/sqrt(fan-in) (times
a learning-rate factor in the mapping) when they are used, so that Adam moves all of them alike.

Legend: B batch, C channels, W width of the styles, L layers that take a style."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.networks.names import Names

GAIN = math.sqrt(2)  # keeps the variance behind a leaky ReLU
FILTER = (1.0, 3.0, 3.0, 1.0)  # of all resampling
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class StyleGANConfig:
    z_dim: int = 512
    w_dim: int = 512
    c_dim: int = 0  # classes
    img_resolution: int = 64
    img_channels: int = 3
    num_mapping_layers: int = 8
    channel_base: int = 32768
    channel_max: int = 512
    mapping_lr: float = 0.01
    mbstd_group_size: int = 4

    class_name: ClassVar[str] = "StyleGAN2Generator"

    @cached_property
    def sides(self) -> list[int]:
        return [2**i for i in range(2, self.img_resolution.bit_length())]

    def channels(self, side: int) -> int:
        return min(self.channel_base // side, self.channel_max)

    @property
    def num_ws(self) -> int:
        """Styles that the generator takes: one a convolution, and one for the last picture."""
        return 2 * len(self.sides)


@dataclass(frozen=True, kw_only=True)
class StyleGANDiscriminatorConfig(StyleGANConfig):
    class_name: ClassVar[str] = "StyleGAN2Discriminator"


# ---- layers --------------------------------------------------------------------------------------


def leaky(x: Tensor, gain: float = GAIN) -> Tensor:
    return F.leaky_relu(x, 0.2) * gain


def kernel(like: Tensor) -> Tensor:
    """The separable low-pass filter (4, 4), of sum one."""
    taps = torch.tensor(FILTER, dtype=like.dtype, device=like.device)
    square = taps[:, None] * taps
    return square / square.sum()


def filtered(x: Tensor, pad: tuple[int, int], gain: float = 1.0) -> Tensor:
    """x (B, C, H, W), padded on either side of both axes, and low-passed."""
    weight = (kernel(x) * gain)[None, None].expand(x.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(x, (*pad, *pad)), weight, groups=x.shape[1])


def upsample(x: Tensor) -> Tensor:
    """Twice the size: zeros between the pixels, low-passed (x4 makes up for the zeros)."""
    B, C, H, W = x.shape
    wide = torch.zeros(B, C, H, 2, W, 2, dtype=x.dtype, device=x.device)
    wide[:, :, :, 0, :, 0] = x
    return filtered(wide.view(B, C, 2 * H, 2 * W), (2, 1), 4.0)


def downsample(x: Tensor) -> Tensor:
    """Half the size: low-passed, every second pixel."""
    return filtered(x, (1, 1))[:, :, ::2, ::2]


class Dense(nn.Module):
    """Equalised linear layer; `lr` slows it down."""

    def __init__(
        self, inp: int, out: int, act: bool = False, lr: float = 1.0, bias: float = 0.0
    ) -> None:
        super().__init__()
        self.act, self.lr, self.start = act, lr, bias
        self.weight, self.bias = nn.Parameter(torch.empty(out, inp)), nn.Parameter(torch.empty(out))

    def forward(self, x: Tensor) -> Tensor:  # (B, in) -> (B, out)
        x = F.linear(
            x, self.weight * (self.lr / math.sqrt(self.weight.shape[1])), self.bias * self.lr
        )
        return leaky(x) if self.act else x


class Conv(nn.Module):
    """Equalised convolution of the discriminator, with downsampling."""

    def __init__(
        self, inp: int, out: int, size: int, down: bool = False, bias: bool = True, act: bool = True
    ) -> None:
        super().__init__()
        self.down, self.act, self.size = down, act, size
        self.weight = nn.Parameter(torch.empty(out, inp, size, size))
        self.bias = nn.Parameter(torch.empty(out)) if bias else None

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:  # (B, C, H, W) -> (B, C', H', W')
        weight = self.weight / math.sqrt(self.weight[0].numel())
        if not self.down:
            x = F.conv2d(x, weight, padding=self.size // 2)
        elif self.size == 1:
            x = F.conv2d(downsample(x), weight)
        else:
            x = F.conv2d(filtered(x, (2, 2)), weight, stride=2)
        x = x if self.bias is None else x + self.bias[:, None, None]
        return leaky(x, GAIN * gain) if self.act else x * gain


def modulated_conv(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    up: bool = False,
    demodulate: bool = True,
    padding: int | None = None,
) -> Tensor:
    """x (B, C, H, W), weight (C', C, k, k), styles (B, C): each sample has its own weights, scaled
    by its style and, demodulated, brought back to unit norm for every output channel (Karras et al.
    2020, eq. 1 and 3). None pads so that the size stays."""
    B, size = len(x), weight.shape[-1]
    own = weight[None] * styles[:, None, :, None, None]  # (B, C', C, k, k)
    if demodulate:
        own = own * (own.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    flat = x.reshape(1, -1, *x.shape[2:])
    if not up:
        out = F.conv2d(
            flat, own.flatten(0, 1), padding=size // 2 if padding is None else padding, groups=B
        )
    else:
        turned = own.transpose(1, 2).flatten(0, 1)  # (B C, C', k, k)
        out = F.conv_transpose2d(flat, turned, stride=2, groups=B)  # (1, B C', 2H + 1, 2W + 1)
        out = filtered(out, (1, 1), 4.0)
    return out.view(B, -1, *out.shape[2:])


# ---- generator -----------------------------------------------------------------------------------


class Mapping(nn.Module):
    """z (B, Z) and a class (B, c_dim), or a class alone, to w (B, W). With z it keeps `w_avg`, the
    mean that truncation pulls towards."""

    def __init__(self, c: StyleGANConfig, z_dim: int) -> None:
        super().__init__()
        self.depth = c.num_mapping_layers
        self.embed = Dense(c.c_dim, c.w_dim) if c.c_dim else None
        widths = [z_dim + (c.w_dim if c.c_dim else 0), *[c.w_dim] * self.depth]
        for i in range(self.depth):
            self.add_module(f"fc{i}", Dense(widths[i], widths[i + 1], act=True, lr=c.mapping_lr))
        self.w_avg: Tensor
        if z_dim:
            self.register_buffer("w_avg", torch.zeros(c.w_dim))

    def forward(self, z: Tensor | None, label: Tensor | None = None) -> Tensor:
        parts = [] if z is None else [normalised(z)]
        if self.embed is not None:
            if label is None:
                raise DaedalError(
                    "this network was trained with classes; give label, one row of zeros and a one a picture."
                )
            parts.append(normalised(self.embed(label)))
        x = torch.cat(parts, 1)
        for i in range(self.depth):
            x = self.get_submodule(f"fc{i}")(x)
        return x


def normalised(x: Tensor) -> Tensor:
    """Unit mean square along the last axis."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class StyledConv(nn.Module):
    def __init__(self, inp: int, out: int, w_dim: int, side: int, up: bool = False) -> None:
        super().__init__()
        self.up = up
        self.affine = Dense(w_dim, inp, bias=1.0)
        self.weight = nn.Parameter(torch.empty(out, inp, 3, 3))
        self.bias = nn.Parameter(torch.empty(out))
        self.noise_const: Tensor
        self.register_buffer("noise_const", torch.zeros(side, side))
        self.noise_strength = nn.Parameter(torch.zeros([]))

    def forward(self, x: Tensor, w: Tensor, noise: torch.Generator | None) -> Tensor:
        x = modulated_conv(x, self.weight, self.affine(w), self.up)
        if noise is None:
            drawn = self.noise_const
        else:
            drawn = torch.randn(len(x), 1, *x.shape[2:], generator=noise).to(x)
        return leaky(x + drawn * self.noise_strength + self.bias[:, None, None])


class ToRGB(nn.Module):
    def __init__(self, inp: int, out: int, w_dim: int) -> None:
        super().__init__()
        self.affine = Dense(w_dim, inp, bias=1.0)
        self.weight = nn.Parameter(torch.empty(out, inp, 1, 1))
        self.bias = nn.Parameter(torch.empty(out))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        styles = self.affine(w) / math.sqrt(self.weight.shape[1])
        return modulated_conv(x, self.weight, styles, demodulate=False) + self.bias[:, None, None]


class SynthesisBlock(nn.Module):
    def __init__(self, c: StyleGANConfig, side: int) -> None:
        super().__init__()
        out = c.channels(side)
        if side == 4:
            self.const = nn.Parameter(torch.empty(out, 4, 4))
        else:
            self.conv0 = StyledConv(c.channels(side // 2), out, c.w_dim, side, up=True)
        self.conv1 = StyledConv(out, out, c.w_dim, side)
        self.torgb = ToRGB(out, c.img_channels, c.w_dim)
        self.first = side == 4

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: Tensor, noise: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """ws (B, 2 or 3, W): of the convolutions, and of the picture."""
        styles = iter(ws.unbind(1))
        if x is None or self.first:
            x = self.const.expand(len(ws), -1, -1, -1)
        else:
            x = self.conv0(x, next(styles), noise)
        x = self.conv1(x, next(styles), noise)
        layer = self.torgb(x, next(styles))
        return x, layer if image is None else upsample(image) + layer


class Synthesis(nn.Module):
    def __init__(self, c: StyleGANConfig) -> None:
        super().__init__()
        self.sides = c.sides
        for side in self.sides:
            self.add_module(f"b{side}", SynthesisBlock(c, side))

    def forward(self, ws: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """ws (B, L, W) -> pictures (B, C, side, side). Without `noise` every layer uses its
        constant noise."""
        x, image, at = None, None, 0
        for side in self.sides:
            # convolutions; the picture's style is the next block's first
            count = 1 if side == 4 else 2
            x, image = self.get_submodule(f"b{side}")(x, image, ws[:, at : at + count + 1], noise)
            at += count
        assert image is not None
        return image


class StyleGAN2Generator(nn.Module):
    """z to pictures."""

    class_name = "StyleGAN2Generator"
    config_class = StyleGANConfig
    names = Names(skipped=("resample_filter",))  # a constant in the authors' files

    def __init__(self, config: StyleGANConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping = Mapping(config, config.z_dim)
        self.synthesis = Synthesis(config)

    def styles(
        self,
        z: Tensor,
        label: Tensor | None = None,
        truncation: float = 1.0,
        cutoff: int | None = None,
    ) -> Tensor:
        """z (B, Z) -> ws (B, L, W), the first `cutoff` of them pulled towards the mean by
        `truncation` (1: as drawn, 0: the mean)."""
        ws = self.mapping(z, label)[:, None].repeat(1, self.config.num_ws, 1)
        pulled = self.mapping.w_avg.lerp(ws, truncation)
        return torch.cat([pulled[:, :cutoff], ws[:, cutoff:]], 1) if cutoff is not None else pulled

    def forward(
        self,
        z: Tensor,
        label: Tensor | None = None,
        *,
        truncation: float = 1.0,
        mix: tuple[Tensor, int] | None = None,
        noise: torch.Generator | None = None,
    ) -> Tensor:
        """z (B, Z) -> pictures (B, C, side, side) in about [-1, 1]. `mix` = (z', layer): styles
        from that layer on come from z' (style mixing)."""
        ws = self.styles(z, label, truncation)
        if mix is not None:
            ws = torch.cat(
                [ws[:, : mix[1]], self.styles(mix[0], label, truncation)[:, mix[1] :]], 1
            )
        return self.synthesis(ws, noise)

    def init_weights(self, seed: int = 0) -> Self:
        return init_equalised(self, seed)


# ---- discriminator -------------------------------------------------------------------------------


class DiscriminatorBlock(nn.Module):
    """Two convolutions and a skip, down to half the size, added at unit variance."""

    def __init__(self, c: StyleGANConfig, side: int, first: bool) -> None:
        super().__init__()
        inp, out = c.channels(side), c.channels(side // 2)
        self.fromrgb = Conv(c.img_channels, inp, 1) if first else None
        self.conv0, self.conv1 = Conv(inp, inp, 3), Conv(inp, out, 3, down=True)
        self.skip = Conv(inp, out, 1, down=True, bias=False, act=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.fromrgb is None else self.fromrgb(x)
        half = math.sqrt(0.5)
        return self.skip(x, half) + self.conv1(self.conv0(x), half)


class Epilogue(nn.Module):
    """The last 4 x 4: how much samples of a group differ as one more channel (Karras et al. 2018),
    and a score."""

    def __init__(self, c: StyleGANConfig) -> None:
        super().__init__()
        width = c.channels(4)
        self.group = c.mbstd_group_size
        self.conv, self.fc = Conv(width + 1, width, 3), Dense(width * 16, width, act=True)
        self.out = Dense(width, c.w_dim if c.c_dim else 1)

    def forward(self, x: Tensor, label: Tensor | None) -> Tensor:  # (B, C, 4, 4) -> (B, 1)
        x = self.out(self.fc(self.conv(torch.cat([x, self.spread(x)], 1)).flatten(1)))
        return x if label is None else (x * label).sum(1, keepdim=True) / math.sqrt(x.shape[1])

    def spread(self, x: Tensor) -> Tensor:
        """(B, 1, H, W): the standard deviation within groups of samples, averaged over channels and
        pixels."""
        groups = x.view(min(self.group, len(x)), -1, *x.shape[1:])  # (G, B / G, C, H, W)
        deviation = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))  # (B / G)
        return deviation.repeat(len(groups))[:, None, None, None].expand(-1, 1, *x.shape[2:])


class StyleGAN2Discriminator(nn.Module):
    """Pictures to scores."""

    class_name = "StyleGAN2Discriminator"
    config_class = StyleGANDiscriminatorConfig
    names = Names(skipped=("resample_filter",))

    def __init__(self, config: StyleGANDiscriminatorConfig) -> None:
        super().__init__()
        self.config, self.sides = config, config.sides[:0:-1]  # largest first, without 4
        for side in self.sides:
            self.add_module(
                f"b{side}", DiscriminatorBlock(config, side, side == config.img_resolution)
            )
        self.b4 = Epilogue(config)
        self.mapping = Mapping(config, 0) if config.c_dim else None

    def forward(self, images: Tensor, label: Tensor | None = None) -> Tensor:
        """images (B, C, side, side) -> scores (B, 1), higher for real ones; B a multiple of the
        group (or below it)."""
        x = images
        for side in self.sides:
            x = self.get_submodule(f"b{side}")(x)
        return self.b4(x, None if self.mapping is None else self.mapping(None, label))

    def init_weights(self, seed: int = 0) -> Self:
        return init_equalised(self, seed)


def init_equalised(module: M, seed: int) -> M:
    """Unit normals (divided by the learning-rate factor where there is one), biases at their start,
    constant noise drawn once."""
    draw = torch.Generator().manual_seed(seed)
    for part in module.modules():
        scale = 1 / part.lr if isinstance(part, Dense) else 1.0
        for name, p in part.named_parameters(recurse=False):
            if name in ("weight", "const"):
                p.data = torch.randn(p.shape, generator=draw) * scale
            else:
                p.data = torch.full(p.shape, part.start if isinstance(part, Dense) else 0.0)
        if isinstance(part, StyledConv):
            part.noise_const = torch.randn(part.noise_const.shape, generator=draw)
    return module
