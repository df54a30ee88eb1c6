"""The causal 3-D autoencoders of Wan (Wan Team 2025): that of Wan 2.1, which Wan 2.2's 14B and
Qwen-Image use as well, and that of Wan 2.2's 5B, with larger cells, shortcuts past each stage and 48
channels. A clip of 1 + 4 n frames is 1 + n latent frames. Each frame sees itself and those before it;
the first is a picture by itself, so that a picture is a clip of one frame.

Clips are coded a latent frame at a time; each layer finds the frames before in a `Past`. Large frames
are decoded in tiles, which come out as the whole would.

Parameter names are those of diffusers' files. Legend: B batch, C channels, F frames, H and W pixels
or cells."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.nn.conv import Conv2d
from daedal.nn.conv3d import (
    CausalConv3d,
    Past,
    as_clip,
    as_frames,
    check_fit,
    from_cells,
    from_patches,
    in_pieces,
    to_cells,
    to_patches,
)

MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
TILE = 128  # cells a side that are decoded at once
CUBE, POINT = (3, 3, 3), (1, 1, 1)  # kernels


@dataclass(frozen=True, kw_only=True)
class AutoencoderKLWanConfig:
    """`temperal_downsample`, so spelled in the files, says which halvings halve time as well.
    `is_residual`: each stage has a shortcut. `patch_size`: pixels a side of what is coded as one."""

    base_dim: int = 96
    decoder_base_dim: int | None = None
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    latents_mean: tuple[float, ...] = MEAN
    latents_std: tuple[float, ...] = STD
    scale_factor_temporal: int | None = 4
    scale_factor_spatial: int | None = 8
    is_residual: bool = False
    in_channels: int = 3
    out_channels: int = 3
    patch_size: int | None = None

    class_name: ClassVar[str] = "AutoencoderKLWan"
    fixed: ClassVar[dict[str, Any]] = {"attn_scales": ()}
    ignored: ClassVar[frozenset[str]] = frozenset({"dropout", "clip_output", "input_channels"})


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
        self.norm1, self.conv1 = Norm(inp), CausalConv3d(inp, out, CUBE)
        self.norm2, self.conv2 = Norm(out), CausalConv3d(out, out, CUBE)
        self.conv_shortcut = CausalConv3d(inp, out, POINT) if inp != out else None

    def forward(self, x: Tensor, past: Past) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)), past)
        h = self.conv2(F.silu(self.norm2(h)), past)
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x, past))


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


class Downsample(nn.Module):
    """Half the size of every frame, and with `time` half as many of them but for the first: that
    stays, and the others come from threes of frames, the last of one three being the first of the
    next."""

    def __init__(self, dim: int, time: bool) -> None:
        super().__init__()
        conv = Conv2d(dim, dim, 3, stride=2)
        self.resample = nn.ModuleList([nn.ZeroPad2d((0, 1, 0, 1)), conv])
        self.time_conv = CausalConv3d(dim, dim, (3, 1, 1), stride=2) if time else None

    def forward(self, x: Tensor, past: Past) -> Tensor:
        x = as_clip(self.resample[1](self.resample[0](as_frames(x))), len(x))
        if self.time_conv is None:
            return x
        head, later = x[:, :, :1], x[:, :, 1:]
        if not past.first:
            return self.time_conv(x, past)
        past.frames[self.time_conv] = head
        return torch.cat([head, self.time_conv(later, past)], 2) if later.shape[2] else head


class Upsample(nn.Module):
    """Double the size of every frame, and with `time` how many there are but for the first: a
    convolution that does not see the first makes two of each other one."""

    def __init__(self, dim: int, out: int, time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleList([nn.Identity(), Conv2d(dim, out, 3, padding=1)])
        self.time_conv = CausalConv3d(dim, 2 * dim, (3, 1, 1)) if time else None

    def forward(self, x: Tensor, past: Past) -> Tensor:
        head, later = x[:, :, : int(past.first)], x[:, :, int(past.first) :]
        if self.time_conv is not None and later.shape[2]:
            pairs = self.time_conv(later, past).unflatten(1, (2, -1)).movedim(1, 3)
            x = torch.cat([head, pairs.flatten(2, 3)], 2)
        frames = as_frames(x)
        frames = F.interpolate(frames.float(), scale_factor=2, mode="nearest-exact").to(x.dtype)
        return as_clip(self.resample[1](frames), len(x))


class MidBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResidualBlock(dim, dim), ResidualBlock(dim, dim)])
        self.attentions = nn.ModuleList([AttentionBlock(dim)])

    def forward(self, x: Tensor, past: Past) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x, past)), past)


class ResidualDownBlock(nn.Module):
    """A stage with a shortcut: the means of groups of channels of cells."""

    def __init__(self, inp: int, out: int, count: int, down: Downsample | None) -> None:
        super().__init__()
        dims = [inp, *[out] * count]
        self.out, self.resnets = out, nn.ModuleList(ResidualBlock(*d) for d in pairwise(dims))
        self.downsampler = down
        self.cell = (2 if down and down.time_conv else 1, 2 if down else 1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        time, side = self.cell
        # the first frame is the second of its pair
        short = F.pad(x, (0, 0, 0, 0, (time - 1) * past.first, 0))
        short = to_cells(short, time, side, side).unflatten(1, (self.out, -1)).mean(2)
        for block in self.resnets:
            x = block(x, past)
        return short + (x if self.downsampler is None else self.downsampler(x, past))


class Encoder(nn.Module):
    def __init__(self, c: AutoencoderKLWanConfig) -> None:
        super().__init__()
        dims = [c.base_dim * m for m in (1, *c.dim_mult)]
        self.conv_in = CausalConv3d(c.in_channels, dims[0], CUBE)
        self.down_blocks = nn.ModuleList()
        for (inp, out), time in zip(pairwise(dims), (*c.temperal_downsample, None), strict=True):
            down = None if time is None else Downsample(out, time)
            if c.is_residual:
                self.down_blocks.append(ResidualDownBlock(inp, out, c.num_res_blocks, down))
                continue
            for pair in pairwise([inp, *[out] * c.num_res_blocks]):
                self.down_blocks.append(ResidualBlock(*pair))
            self.down_blocks.extend([down] if down else [])
        self.mid_block = MidBlock(out)
        self.norm_out, self.conv_out = Norm(out), CausalConv3d(out, 2 * c.z_dim, CUBE)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        x = self.conv_in(x, past)
        for block in self.down_blocks:
            x = block(x, past)
        return self.conv_out(F.silu(self.norm_out(self.mid_block(x, past))), past)


class UpBlock(nn.Module):
    def __init__(self, inp: int, out: int, count: int, up: Upsample | None) -> None:
        super().__init__()
        dims = [inp, *[out] * count]
        self.resnets = nn.ModuleList(ResidualBlock(*d) for d in pairwise(dims))
        self.upsamplers = nn.ModuleList([up]) if up is not None else None

    def forward(self, x: Tensor, past: Past) -> Tensor:
        for block in self.resnets:
            x = block(x, past)
        return x if self.upsamplers is None else self.upsamplers[0](x, past)


class ResidualUpBlock(nn.Module):
    """A stage with a shortcut: channels repeated as cells."""

    def __init__(self, inp: int, out: int, count: int, up: Upsample | None) -> None:
        super().__init__()
        dims = [inp, *[out] * count]
        self.resnets = nn.ModuleList(ResidualBlock(*d) for d in pairwise(dims))
        self.upsampler, self.time = up, 2 if up and up.time_conv else 1
        self.repeats = out * self.time * 4 // inp

    def forward(self, x: Tensor, past: Past) -> Tensor:
        h = x
        for block in self.resnets:
            h = block(h, past)
        if self.upsampler is None:
            return h
        short = from_cells(x.repeat_interleave(self.repeats, 1), self.time, 2, 2)
        return self.upsampler(h, past) + short[:, :, (self.time - 1) * past.first :]


class Decoder(nn.Module):
    def __init__(self, c: AutoencoderKLWanConfig) -> None:
        super().__init__()
        dims = [(c.decoder_base_dim or c.base_dim) * m for m in (c.dim_mult[-1], *c.dim_mult[::-1])]
        times = (*c.temperal_downsample[::-1], None)
        self.conv_in, self.mid_block = CausalConv3d(c.z_dim, dims[0], CUBE), MidBlock(dims[0])
        self.up_blocks = nn.ModuleList()
        for i, ((inp, out), time) in enumerate(zip(pairwise(dims), times, strict=True)):
            # without shortcuts what was doubled before has half the channels
            halved = not c.is_residual
            up = None if time is None else Upsample(out, out // 2 if halved else out, time)
            kind = UpBlock if halved else ResidualUpBlock
            inp = inp // 2 if halved and i else inp
            self.up_blocks.append(kind(inp, out, c.num_res_blocks + 1, up))
        self.norm_out, self.conv_out = Norm(out), CausalConv3d(out, c.out_channels, CUBE)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        return self.enlarged(self.begun(x, past), past)

    def begun(self, x: Tensor, past: Past) -> Tensor:
        """At the size of the latents, where each place sees its whole frame."""
        return self.mid_block(self.conv_in(x, past), past)

    def enlarged(self, x: Tensor, past: Past) -> Tensor:
        """Of what `begun` gives, pixels, which see no further than `reach` cells."""
        for block in self.up_blocks:
            x = block(x, past)
        return self.conv_out(F.silu(self.norm_out(x)), past)

    @property
    def reach(self) -> int:
        """Cells on each side that a pixel sees: one of its stage for each convolution, two in a
        residual block, and those of the ends of stages one of the next."""
        far, cell, blocks = 0.0, 1.0, list[Any](self.up_blocks)
        for block in blocks:
            far, cell = far + 2 * len(block.resnets) * cell + cell / 2, cell / 2
        return math.ceil(far + cell)


class AutoencoderKLWan(nn.Module):
    """Clips (B, 3, 1 + 4 n, H, W) in [-1, 1] <-> latents (B, z_dim, 1 + n, H / 8, W / 8) of unit
    spread; H / 16, W / 16 of Wan 2.2's 5B."""

    config_class = AutoencoderKLWanConfig
    class_name = AutoencoderKLWanConfig.class_name

    def __init__(self, config: AutoencoderKLWanConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = CausalConv3d(2 * config.z_dim, 2 * config.z_dim, POINT)
        self.post_quant_conv = CausalConv3d(config.z_dim, config.z_dim, POINT)

    @property
    def factors(self) -> tuple[int, int]:
        """Frames and pixels a latent cell stands for."""
        pixels = 2 ** (len(self.config.dim_mult) - 1) * (self.config.patch_size or 1)
        return 2 ** sum(self.config.temperal_downsample), pixels

    def moments(self, clips: Tensor) -> Tensor:
        """The mean and the log-variance of the latents, (B, 2 z_dim, f, h, w), not scaled."""
        check_fit(clips, *self.factors)
        clips = to_patches(clips, self.config.patch_size or 1)
        return self.quant_conv(in_pieces(self.encoder, clips, self.factors[0]), Past())

    def encode(self, clips: Tensor) -> Tensor:
        """The mean of the latents, scaled."""
        mean, spread = self.scale(clips)
        return (self.moments(clips).chunk(2, 1)[0] - mean) / spread

    def decode(self, latents: Tensor, tile: int = TILE) -> Tensor:
        """In tiles of so many cells a side, with as much around them as their pixels see."""
        mean, spread = self.scale(latents)
        x = self.post_quant_conv(latents * spread + mean, Past())
        x = in_pieces(self.decoder.begun, x, 1)
        sides = x.shape[3:]
        rows, columns = (range(0, side, tile) for side in sides)
        strips = [torch.cat([self.tile(x, top, left, tile) for left in columns], 4) for top in rows]
        return torch.cat(strips, 3).clamp(-1, 1)

    def tile(self, x: Tensor, top: int, left: int, side: int) -> Tensor:
        """The pixels of cells of what the decoder has begun."""
        reach, spans, kept = self.decoder.reach, [], []
        for start, most in zip((top, left), x.shape[3:], strict=True):
            first, last = max(start - reach, 0), min(start + side + reach, most)
            pixels = self.factors[1]
            spans.append(slice(first, last))
            begin, count = (start - first) * pixels, (min(start + side, most) - start) * pixels
            kept.append(slice(begin, begin + count))
        made = in_pieces(self.decoder.enlarged, x[:, :, :, spans[0], spans[1]], 1)
        return from_patches(made, self.config.patch_size or 1)[:, :, :, kept[0], kept[1]]

    def scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread of each channel, (1, z_dim, 1, 1, 1)."""
        both = (self.config.latents_mean, self.config.latents_std)
        mean, spread = (like.new_tensor(values).view(1, -1, 1, 1, 1) for values in both)
        return mean, spread
