"""The causal 3-D autoencoder of CogVideoX (Yang et al. 2024): a clip of 1 + 4 n frames as 1 + n latent
frames. Each frame sees itself and those before it, but for group norms, which see a whole piece: so
clips are coded in pieces of eight frames, two latent ones, as the model was trained.

Parameter names are those of diffusers' files. Legend: B batch, C channels, F frames, H and W pixels
or cells, Z latent channels."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.nn.conv import Conv2d, GroupNorm
from daedal.nn.conv3d import Conv3d, Past, RepeatedConv3d, as_clip, as_frames, check_fit, in_pieces

PIECE = 2  # latent frames


@dataclass(frozen=True, kw_only=True)
class AutoencoderKLCogVideoXConfig:
    """`invert_scale_latents`: given frames were divided by the scale in training, not multiplied."""

    down_block_types: tuple[str, ...] = ("CogVideoXDownBlock3D",) * 4
    up_block_types: tuple[str, ...] = ("CogVideoXUpBlock3D",) * 4
    block_out_channels: tuple[int, ...] = (128, 256, 256, 512)
    latent_channels: int = 16
    layers_per_block: int = 3
    norm_eps: float = 1e-6
    norm_num_groups: int = 32
    temporal_compression_ratio: float = 4
    sample_height: int = 480
    sample_width: int = 720
    scaling_factor: float = 1.15258426
    invert_scale_latents: bool = False

    class_name: ClassVar[str] = "AutoencoderKLCogVideoX"
    fixed: ClassVar[dict[str, Any]] = {
        "in_channels": 3, "out_channels": 3, "act_fn": "silu", "shift_factor": None, "latents_mean": None, "latents_std": None,
        "use_quant_conv": False, "use_post_quant_conv": False,
    }  # fmt: skip
    ignored: ClassVar[frozenset[str]] = frozenset({"force_upcast"})

    @property
    def halvings(self) -> int:
        """How many stages halve time, too."""
        return int(self.temporal_compression_ratio).bit_length() - 1


class SpatialNorm(nn.Module):
    """A group norm that the latents scale and shift (Zheng et al. 2022)."""

    def __init__(self, dim: int, latent: int, groups: int) -> None:
        super().__init__()
        self.norm_layer = GroupNorm(groups, dim, 1e-6)
        self.conv_y, self.conv_b = (RepeatedConv3d(latent, dim, 1) for _ in range(2))

    def forward(self, x: Tensor, latents: Tensor | None) -> Tensor:
        """x (B, C, F, H, W), latents (B, Z, f, h, w)."""
        # a convolution of points may stand before what repeats them
        scale, shift = (spread(conv(latents), x) for conv in (self.conv_y, self.conv_b))
        return self.norm_layer(x) * scale + shift


def spread(latents: Tensor, x: Tensor) -> Tensor:
    """latents (B, C, f, h, w) repeated to the size of x; an odd first frame is one by itself."""
    if x.shape[2] > 1 and x.shape[2] % 2:
        return torch.cat(
            [spread(latents[:, :, :1], x[:, :, :1]), spread(latents[:, :, 1:], x[:, :, 1:])], 2
        )
    return F.interpolate(latents, size=x.shape[2:])


class Norm(GroupNorm):
    """A group norm where there are no latents yet."""

    def forward(self, x: Tensor, latents: Tensor | None = None) -> Tensor:
        return super().forward(x)


class ResnetBlock(nn.Module):
    def __init__(self, inp: int, out: int, c: AutoencoderKLCogVideoXConfig, decoding: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = (norm(dim, c, decoding) for dim in (inp, out))
        self.conv1, self.conv2 = RepeatedConv3d(inp, out), RepeatedConv3d(out, out)
        self.conv_shortcut = Conv3d(inp, out, 1) if inp != out else nn.Identity()

    def forward(self, x: Tensor, past: Past, latents: Tensor | None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x, latents)), past)
        h = self.conv2(F.silu(self.norm2(h, latents)), past)
        return h + self.conv_shortcut(x)


def norm(dim: int, c: AutoencoderKLCogVideoXConfig, decoding: bool) -> nn.Module:
    if decoding:
        return SpatialNorm(dim, c.latent_channels, c.norm_num_groups)
    return Norm(c.norm_num_groups, dim, c.norm_eps)


class Resample(nn.Module):
    """Half or double the size of every frame, and with `time` how many there are, in pairs; an odd
    first frame stays one."""

    def __init__(self, dim: int, up: bool, time: bool) -> None:
        super().__init__()
        self.up, self.time = up, time
        self.conv = Conv2d(dim, dim, 3, padding=1) if up else Conv2d(dim, dim, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        if self.time:
            odd = x.shape[2] % 2
            later = x[:, :, odd:]
            if self.up:
                later = later.repeat_interleave(2, 2)
            elif later.shape[2]:
                later = later.unflatten(2, (-1, 2)).mean(3)
            x = torch.cat([x[:, :, :odd], later], 2)
        frames = as_frames(x)
        frames = F.interpolate(frames, scale_factor=2.0) if self.up else F.pad(frames, (0, 1, 0, 1))
        return as_clip(self.conv(frames), len(x))


class Blocks(nn.Module):
    """Residual blocks of one stage, and how its end is resampled."""

    upsamplers: nn.ModuleList | None
    downsamplers: nn.ModuleList | None

    def __init__(
        self, dims: list[int], c: AutoencoderKLCogVideoXConfig, decoding: bool, end: Resample | None
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(*pair, c, decoding) for pair in pairwise(dims))
        ends = nn.ModuleList([end]) if end is not None else None
        self.upsamplers, self.downsamplers = (ends, None) if decoding else (None, ends)

    def forward(self, x: Tensor, past: Past, latents: Tensor | None = None) -> Tensor:
        for block in self.resnets:
            x = block(x, past, latents)
        for end in self.upsamplers or self.downsamplers or ():
            x = end(x)
        return x


class Encoder(nn.Module):
    def __init__(self, c: AutoencoderKLCogVideoXConfig) -> None:
        super().__init__()
        dims = [c.block_out_channels[0], *c.block_out_channels]
        self.conv_in = RepeatedConv3d(3, dims[0])
        self.down_blocks = nn.ModuleList()
        for i, (inp, out) in enumerate(pairwise(dims)):
            end = Resample(out, False, i < c.halvings) if i < len(dims) - 2 else None
            self.down_blocks.append(Blocks([inp, *[out] * c.layers_per_block], c, False, end))
        self.mid_block = Blocks([out] * 3, c, False, None)
        self.norm_out = Norm(c.norm_num_groups, out, 1e-6)
        self.conv_out = RepeatedConv3d(out, 2 * c.latent_channels)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        x = self.conv_in(x, past)
        for block in (*self.down_blocks, self.mid_block):
            x = block(x, past)
        return self.conv_out(F.silu(self.norm_out(x)), past)


class Decoder(nn.Module):
    def __init__(self, c: AutoencoderKLCogVideoXConfig) -> None:
        super().__init__()
        dims = [c.block_out_channels[-1], *c.block_out_channels[::-1]]
        self.conv_in = RepeatedConv3d(c.latent_channels, dims[0])
        self.mid_block = Blocks([dims[0]] * 3, c, True, None)
        self.up_blocks = nn.ModuleList()
        for i, (inp, out) in enumerate(pairwise(dims)):
            end = Resample(out, True, i < c.halvings) if i < len(dims) - 2 else None
            self.up_blocks.append(Blocks([inp, *[out] * (c.layers_per_block + 1)], c, True, end))
        self.norm_out = SpatialNorm(out, c.latent_channels, c.norm_num_groups)
        self.conv_out = RepeatedConv3d(out, 3)

    def forward(self, latents: Tensor, past: Past) -> Tensor:
        x = self.conv_in(latents, past)
        for block in (self.mid_block, *self.up_blocks):
            x = block(x, past, latents)
        return self.conv_out(F.silu(self.norm_out(x, latents)), past)


class AutoencoderKLCogVideoX(nn.Module):
    """Clips (B, 3, 1 + 4 n, H, W) in [-1, 1] <-> latents (B, Z, 1 + n, H / 8, W / 8) of unit
    spread."""

    config_class = AutoencoderKLCogVideoXConfig
    class_name = AutoencoderKLCogVideoXConfig.class_name

    def __init__(self, config: AutoencoderKLCogVideoXConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    @property
    def factors(self) -> tuple[int, int]:
        """Frames and pixels a latent cell stands for."""
        c = self.config
        return 2**c.halvings, 2 ** (len(c.block_out_channels) - 1)

    def encode(self, clips: Tensor) -> Tensor:
        """The mean of the latents, scaled."""
        check_fit(clips, *self.factors)
        size = PIECE * self.factors[0]
        moments = in_pieces(self.encoder, clips, size, size + clips.shape[2] % size)
        return moments.chunk(2, 1)[0] * self.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Of an odd number of latent frames; an even one makes four frames of the first, too."""
        latents = latents / self.config.scaling_factor
        first = PIECE + latents.shape[2] % PIECE
        return in_pieces(self.decoder, latents, PIECE, first).clamp(-1, 1)
