"""The causal 3-D autoencoder of Wan 2.1 (Wan Team 2025), which Wan 2.2's 14B and Qwen-Image use as
well: a clip of 1 + 4 n frames as 1 + n latent frames. Each frame sees itself and those before it; the
first is a picture by itself, so that a picture is a clip of one frame.

The published code works frame group by frame group with caches in every layer. What those caches come
to is written here as convolutions over the whole clip (`Resample`), which give the same numbers.

Parameter names are those of diffusers' files. Legend: B batch, C channels, F frames, H and W pixels
or cells."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.nn.conv import Conv2d

MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AutoencoderKLWanConfig:
    """`temperal_downsample`, so spelled in the files, says which halvings halve time as well."""

    base_dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    latents_mean: tuple[float, ...] = MEAN
    latents_std: tuple[float, ...] = STD
    scale_factor_temporal: int | None = 4
    scale_factor_spatial: int | None = 8

    class_name: ClassVar[str] = "AutoencoderKLWan"
    fixed: ClassVar[dict[str, Any]] = {
        "attn_scales": (), "is_residual": False, "in_channels": 3, "out_channels": 3, "patch_size": None, "decoder_base_dim": None, "input_channels": 3,
    }  # fmt: skip
    ignored: ClassVar[frozenset[str]] = frozenset({"dropout", "clip_output"})


class CausalConv3d(nn.Conv3d):
    """A convolution over frames that sees none to come: time is padded in front only."""

    def __init__(
        self, inp: int, out: int, kernel: int | tuple[int, int, int], padding: int = 0
    ) -> None:
        super().__init__(inp, out, kernel, padding=padding)
        front = self.kernel_size[0] - 1 if padding else 0
        side = int(self.padding[1])
        self.around = (side, side, side, side, front, 0)

    def reset_parameters(self) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:  # (B, C, F, H, W) -> (B, C', F, H, W)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.conv3d(F.pad(x, self.around), self.weight.to(x.dtype), bias, self.stride)


class Norm(nn.Module):
    """x / rms over the channels * gamma; `axes` of the places that gamma is broadcast to."""

    def __init__(self, dim: int, axes: int = 3) -> None:
        super().__init__()
        self.scale, self.gamma = dim**0.5, nn.Parameter(torch.ones(dim, *(1,) * axes))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * self.scale * self.gamma.to(x.dtype)


class ResidualBlock(nn.Module):
    def __init__(self, inp: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = Norm(inp), CausalConv3d(inp, out, 3, 1)
        self.norm2, self.conv2 = Norm(out), CausalConv3d(out, out, 3, 1)
        self.conv_shortcut = CausalConv3d(inp, out, 1) if inp != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class AttentionBlock(nn.Module):
    """Each frame's places attend to each other, in one head."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = Norm(dim, 2)
        self.to_qkv, self.proj = Conv2d(dim, 3 * dim, 1), Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        frames = as_frames(x)
        qkv = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2)  # (B F, H W, 3 C)
        out = F.scaled_dot_product_attention(*qkv.chunk(3, -1)).transpose(1, 2)
        return x + as_clip(self.proj(out.reshape(frames.shape)), len(x))


def as_frames(x: Tensor) -> Tensor:  # (B, C, F, H, W) -> (B F, C, H, W)
    return x.transpose(1, 2).flatten(0, 1)


def as_clip(frames: Tensor, batch: int) -> Tensor:  # (B F, C, H, W) -> (B, C, F, H, W)
    return frames.unflatten(0, (batch, -1)).transpose(1, 2)


class Resample(nn.Module):
    """Half or double the size of every frame, and with `time` how many there are but for the first.

    Down, the first frame stays; the others come from threes of frames, the last of one three being
    the first of the next. Up, a convolution that does not see the first frame makes two of each
    other one."""

    def __init__(self, dim: int, up: bool, time: bool) -> None:
        super().__init__()
        self.up = up
        pad: nn.Module = nn.Identity() if up else nn.ZeroPad2d((0, 1, 0, 1))
        conv = Conv2d(dim, dim // 2, 3, padding=1) if up else Conv2d(dim, dim, 3, stride=2)
        self.resample = nn.ModuleList([pad, conv])
        self.time_conv = CausalConv3d(dim, 2 * dim if up else dim, (3, 1, 1)) if time else None

    def forward(self, x: Tensor) -> Tensor:
        if self.up and self.time_conv is not None and x.shape[2] > 1:
            later = self.time_conv(F.pad(x[:, :, 1:], (0, 0, 0, 0, 2, 0)))
            pairs = later.unflatten(1, (2, -1)).movedim(1, 3).flatten(2, 3)  # (B, C, 2 F, H, W)
            x = torch.cat([x[:, :, :1], pairs], 2)
        frames = as_frames(x)
        if self.up:
            frames = F.interpolate(frames.float(), scale_factor=2, mode="nearest-exact").to(x.dtype)
        x = as_clip(self.resample[1](self.resample[0](frames)), len(x))
        if not self.up and self.time_conv is not None and x.shape[2] > 1:
            conv = self.time_conv
            bias = None if conv.bias is None else conv.bias.to(x.dtype)
            later = F.conv3d(x, conv.weight.to(x.dtype), bias, (2, 1, 1))
            x = torch.cat([x[:, :, :1], later], 2)
        return x


class MidBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResidualBlock(dim, dim), ResidualBlock(dim, dim)])
        self.attentions = nn.ModuleList([AttentionBlock(dim)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nn.Module):
    def __init__(self, c: AutoencoderKLWanConfig) -> None:
        super().__init__()
        dims = [c.base_dim * m for m in (1, *c.dim_mult)]
        self.conv_in = CausalConv3d(3, dims[0], 3, 1)
        self.down_blocks = nn.ModuleList()
        for i, (inp, out) in enumerate(pairwise(dims)):
            for n in range(c.num_res_blocks):
                self.down_blocks.append(ResidualBlock(inp if n == 0 else out, out))
            if i < len(c.dim_mult) - 1:
                self.down_blocks.append(Resample(out, False, c.temperal_downsample[i]))
        self.mid_block = MidBlock(out)
        self.norm_out, self.conv_out = Norm(out), CausalConv3d(out, 2 * c.z_dim, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(self.mid_block(x))))


class UpBlock(nn.Module):
    def __init__(self, inp: int, out: int, count: int, up: Resample | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResidualBlock(inp if n == 0 else out, out) for n in range(count)
        )
        self.upsamplers = nn.ModuleList([up]) if up is not None else None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        return x if self.upsamplers is None else self.upsamplers[0](x)


class Decoder(nn.Module):
    def __init__(self, c: AutoencoderKLWanConfig) -> None:
        super().__init__()
        dims = [c.base_dim * m for m in (c.dim_mult[-1], *c.dim_mult[::-1])]
        times = c.temperal_downsample[::-1]
        self.conv_in, self.mid_block = CausalConv3d(c.z_dim, dims[0], 3, 1), MidBlock(dims[0])
        self.up_blocks = nn.ModuleList()
        for i, (inp, out) in enumerate(pairwise(dims)):
            up = Resample(out, True, times[i]) if i < len(c.dim_mult) - 1 else None
            # what was doubled before has half the channels
            self.up_blocks.append(UpBlock(inp // 2 if i else inp, out, c.num_res_blocks + 1, up))
        self.norm_out, self.conv_out = Norm(out), CausalConv3d(out, 3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class AutoencoderKLWan(nn.Module):
    """Clips (B, 3, 1 + 4 n, H, W) in [-1, 1] <-> latents (B, z_dim, 1 + n, H / 8, W / 8) of unit
    spread."""

    config_class = AutoencoderKLWanConfig
    class_name = AutoencoderKLWanConfig.class_name

    def __init__(self, config: AutoencoderKLWanConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = CausalConv3d(2 * config.z_dim, 2 * config.z_dim, 1)
        self.post_quant_conv = CausalConv3d(config.z_dim, config.z_dim, 1)

    @property
    def factors(self) -> tuple[int, int]:
        """Frames and pixels a latent cell stands for."""
        return 2 ** sum(self.config.temperal_downsample), 2 ** (len(self.config.dim_mult) - 1)

    def moments(self, clips: Tensor) -> Tensor:
        """The mean and the log-variance of the latents, (B, 2 z_dim, f, h, w), not scaled."""
        time, space = self.factors
        frames, height, width = clips.shape[2:]
        if (frames - 1) % time or height % space or width % space:
            raise DaedalError(
                f"{frames} frames of {width}x{height} do not fit: this codec takes 1 + {time} n frames and sides of {space} n; change the clip."
            )
        return self.quant_conv(self.encoder(clips))

    def encode(self, clips: Tensor) -> Tensor:
        """The mean of the latents, scaled."""
        mean, spread = self.scale(clips)
        return (self.moments(clips).chunk(2, 1)[0] - mean) / spread

    def decode(self, latents: Tensor) -> Tensor:
        mean, spread = self.scale(latents)
        return self.decoder(self.post_quant_conv(latents * spread + mean)).clamp(-1, 1)

    def scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread of each channel, (1, z_dim, 1, 1, 1)."""
        both = (self.config.latents_mean, self.config.latents_std)
        mean, spread = (like.new_tensor(values).view(1, -1, 1, 1, 1) for values in both)
        return mean, spread
