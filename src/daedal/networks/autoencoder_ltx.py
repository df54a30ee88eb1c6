"""The autoencoders of LTX-Video (HaCohen et al. 2024), 0.9 to 0.9.8: a clip of 1 + 8 n frames as 1 + n
latent frames of cells of 32 pixels a side. The encoder sees no frame to come. The decoder of 0.9.1 and
later makes the last step of denoising as well: it is told how noisy its latents are.

Parameter names are those of diffusers' files. Legend: B batch, C channels, F frames, H and W pixels
or cells, E width of the noise level's vector."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.networks.config import one_of
from daedal.nn.conv3d import (
    RepeatedConv3d,
    check_fit,
    from_cells,
    from_patches,
    rms_normed,
    to_cells,
    to_patches,
)
from daedal.nn.norm import LayerNorm
from daedal.nn.timestep import Timestep

Cell = tuple[int, int, int]  # frames, rows, columns that become one
CELLS: dict[str, Cell] = {
    "spatial": (1, 2, 2), "temporal": (2, 1, 1), "spatiotemporal": (2, 2, 2),
}  # fmt: skip
OLD, NEW = "LTXVideoDownBlock3D", "LTXVideo095DownBlock3D"


@dataclass(frozen=True, kw_only=True)
class AutoencoderKLLTXVideoConfig:
    """Lists of the decoder begin with the stage nearest to pixels, as those of the encoder do."""

    latent_channels: int = 128
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    down_block_types: tuple[str, ...] = (OLD,) * 4
    decoder_block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: tuple[int, ...] = (4, 3, 3, 3, 4)
    decoder_layers_per_block: tuple[int, ...] = (4, 3, 3, 3, 4)
    spatio_temporal_scaling: tuple[bool, ...] = (True, True, True, False)
    decoder_spatio_temporal_scaling: tuple[bool, ...] = (True, True, True, False)
    decoder_inject_noise: tuple[bool, ...] = (False,) * 5
    downsample_type: tuple[str, ...] = ("conv",) * 4
    upsample_residual: tuple[bool, ...] = (False,) * 4
    upsample_factor: tuple[int, ...] = (1,) * 4
    timestep_conditioning: bool = False
    patch_size: int = 4
    resnet_norm_eps: float = 1e-6
    scaling_factor: float = 1.0
    encoder_causal: bool = True
    decoder_causal: bool = False
    spatial_compression_ratio: int | None = None
    temporal_compression_ratio: int | None = None

    class_name: ClassVar[str] = "AutoencoderKLLTXVideo"
    fixed: ClassVar[dict[str, Any]] = {"in_channels": 3, "out_channels": 3, "patch_size_t": 1}


@dataclass(frozen=True)
class Stage:
    """What all blocks of a stage are: `noise`, each adds some; `timed`, each is told the level."""

    causal: bool
    eps: float
    noise: bool = False
    timed: bool = False


Noise = Callable[[Tensor], Tensor]  # a plane (H, W) of it that fits a clip


class ResnetBlock(nn.Module):
    per_channel_scale1: nn.Parameter | None
    per_channel_scale2: nn.Parameter | None
    scale_shift_table: nn.Parameter | None

    def __init__(self, inp: int, out: int, stage: Stage) -> None:
        super().__init__()
        self.conv1 = RepeatedConv3d(inp, out, causal=stage.causal)
        self.conv2 = RepeatedConv3d(out, out, causal=stage.causal)
        self.norm3 = LayerNorm(inp, stage.eps) if inp != out else None
        self.conv_shortcut = (
            RepeatedConv3d(inp, out, 1, causal=stage.causal) if inp != out else None
        )
        for name in ("per_channel_scale1", "per_channel_scale2"):
            scale = nn.Parameter(torch.empty(inp, 1, 1)) if stage.noise else None
            self.register_parameter(name, scale)
        table = nn.Parameter(torch.empty(4, inp)) if stage.timed else None
        self.register_parameter("scale_shift_table", table)

    def forward(self, x: Tensor, level: Tensor | None, noise: Noise) -> Tensor:
        """x (B, C, F, H, W), level (B, 4 C)."""
        scales = self.per_channel_scale1, self.per_channel_scale2
        h = x
        for conv, scale, part in zip((self.conv1, self.conv2), scales, (0, 2), strict=True):
            h = conv(F.silu(timed(rms_normed(h), self.scale_shift_table, level, part)))
            h = h if scale is None else h + (noise(h) * scale.to(h.dtype))[None, :, None]
        if self.norm3 is not None:
            x = self.norm3(x.movedim(1, -1)).movedim(-1, 1)
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


def timed(x: Tensor, table: Tensor | None, level: Tensor | None, part: int = 0) -> Tensor:
    """x (B, C, ...) shifted and scaled by rows `part` and the next of a table (n, C), to which the
    level (B, n C) is added."""
    if table is None or level is None:
        return x
    rows = table.to(x.dtype) + level.unflatten(1, (len(table), -1))
    shift, scale = rows[:, part : part + 2, :, None, None, None].unbind(1)
    return x * (1 + scale) + shift


class Blocks(nn.Module):
    """Residual blocks of one stage."""

    time_embedder: Timestep | None

    def __init__(self, inp: int, dim: int, count: int, stage: Stage) -> None:
        super().__init__()
        self.time_embedder = Timestep(4 * inp) if stage.timed else None
        self.resnets = nn.ModuleList(ResnetBlock(dim, dim, stage) for _ in range(count))

    def forward(self, x: Tensor, time: Tensor | None, noise: Noise) -> Tensor:
        level = embedded(self.time_embedder, time, x)
        for block in self.resnets:
            x = block(x, level, noise)
        return x


def embedded(embedder: Timestep | None, time: Tensor | None, like: Tensor) -> Tensor | None:
    """The vectors (B, E) of noise levels (B,)."""
    return None if embedder is None or time is None else embedder.level(time, like.dtype)


class Downsample(nn.Module):
    """A convolution whose results are put into cells, beside the means of groups of channels of
    cells (0.9.5)."""

    def __init__(self, inp: int, out: int, cell: Cell, causal: bool) -> None:
        super().__init__()
        self.cell, self.out = cell, out
        self.conv = RepeatedConv3d(inp, out // (cell[0] * cell[1] * cell[2]), causal=causal)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat(
            [x[:, :, : self.cell[0] - 1], x], 2
        )  # a first frame is the second of its pair
        means = to_cells(x, *self.cell).unflatten(1, (self.out, -1)).mean(2)
        return to_cells(self.conv(x), *self.cell) + means


class Upsample(nn.Module):
    """Cells of two frames, rows and columns out of channels, `factor` times fewer than there are;
    with `residual` the input's own are added."""

    def __init__(self, inp: int, stage: Stage, residual: bool, factor: int) -> None:
        super().__init__()
        self.conv = RepeatedConv3d(inp, 8 * inp // factor, causal=stage.causal)
        self.repeats = 8 // factor if residual else 0

    def forward(self, x: Tensor) -> Tensor:
        made = from_cells(self.conv(x), 2, 2, 2)
        if self.repeats:
            made = made + from_cells(x, 2, 2, 2).repeat(1, self.repeats, 1, 1, 1)
        return made[:, :, 1:]


class DownBlock(Blocks):
    def __init__(self, inp: int, out: int, count: int, stage: Stage, kind: str | None) -> None:
        """`kind`: how it halves; None where it does not."""
        super().__init__(inp, inp, count, stage)
        self.downsamplers = self.conv_out = None
        if kind == "conv":
            down: nn.Module = RepeatedConv3d(inp, inp, 3, 2, causal=stage.causal)
            self.downsamplers = nn.ModuleList([down])
        elif kind is not None:
            cell = CELLS[one_of("downsample_type", kind, ["conv", *CELLS])]
            self.downsamplers = nn.ModuleList([Downsample(inp, out, cell, stage.causal)])
            inp = out
        if inp != out:
            self.conv_out = ResnetBlock(inp, out, stage)

    def forward(self, x: Tensor, time: Tensor | None, noise: Noise) -> Tensor:
        x = super().forward(x, time, noise)
        x = x if self.downsamplers is None else self.downsamplers[0](x)
        return x if self.conv_out is None else self.conv_out(x, None, noise)


class UpBlock(Blocks):
    def __init__(
        self, inp: int, out: int, count: int, stage: Stage, up: bool, residual: bool, factor: int
    ) -> None:
        super().__init__(inp, out, count, stage)
        self.conv_in = ResnetBlock(inp, out, stage) if inp != out else None
        upsample = Upsample(out * factor, stage, residual, factor) if up else None
        self.upsamplers = nn.ModuleList([upsample]) if upsample else None

    def forward(self, x: Tensor, time: Tensor | None, noise: Noise) -> Tensor:
        x = x if self.conv_in is None else self.conv_in(x, None, noise)
        x = x if self.upsamplers is None else self.upsamplers[0](x)
        return super().forward(x, time, noise)


class Encoder(nn.Module):
    def __init__(self, c: AutoencoderKLLTXVideoConfig) -> None:
        super().__init__()
        stage, dims = Stage(c.encoder_causal, c.resnet_norm_eps), c.block_out_channels
        if c.down_block_types[-1] == OLD:  # the last stage ends as wide as it begins
            dims = (*dims, dims[-1])
        self.conv_in = RepeatedConv3d(3 * c.patch_size**2, dims[0], causal=stage.causal)
        self.down_blocks = nn.ModuleList()
        for i, (inp, out) in enumerate(pairwise(dims)):
            kind = one_of("down_block_types", c.down_block_types[i], (OLD, NEW))
            how = "conv" if kind == OLD else c.downsample_type[i]
            halved = how if c.spatio_temporal_scaling[i] else None
            self.down_blocks.append(DownBlock(inp, out, c.layers_per_block[i], stage, halved))
        self.mid_block = Blocks(dims[-1], dims[-1], c.layers_per_block[-1], stage)
        self.conv_out = RepeatedConv3d(dims[-1], c.latent_channels + 1, causal=stage.causal)

    def forward(self, x: Tensor) -> Tensor:
        """The means, and one log-variance for all channels."""
        x = self.conv_in(x)
        for block in (*self.down_blocks, self.mid_block):
            x = block(x, None, no_noise)
        return self.conv_out(F.silu(rms_normed(x)))


def no_noise(x: Tensor) -> Tensor:
    raise NotImplementedError("encoders add none")


class Decoder(nn.Module):
    timestep_scale_multiplier: nn.Parameter | None
    scale_shift_table: nn.Parameter | None

    def __init__(self, c: AutoencoderKLLTXVideoConfig) -> None:
        super().__init__()
        layers, noisy = c.decoder_layers_per_block[::-1], c.decoder_inject_noise[::-1]
        stages = [
            Stage(c.decoder_causal, c.resnet_norm_eps, noise, c.timestep_conditioning)
            for noise in noisy
        ]
        out = c.decoder_block_out_channels[-1]
        self.conv_in = RepeatedConv3d(c.latent_channels, out, causal=c.decoder_causal)
        self.mid_block = Blocks(out, out, layers[0], stages[0])
        self.up_blocks = nn.ModuleList()
        for i, dim in enumerate(c.decoder_block_out_channels[::-1]):
            factor = c.upsample_factor[::-1][i]
            inp, out = out // factor, dim // factor
            how = c.decoder_spatio_temporal_scaling[::-1][i], c.upsample_residual[::-1][i], factor
            self.up_blocks.append(UpBlock(inp, out, layers[i + 1], stages[i + 1], *how))
        self.conv_out = RepeatedConv3d(out, 3 * c.patch_size**2, causal=c.decoder_causal)
        self.time_embedder = Timestep(2 * out) if c.timestep_conditioning else None
        for name, shape in {"timestep_scale_multiplier": (), "scale_shift_table": (2, out)}.items():
            value = nn.Parameter(torch.empty(shape)) if c.timestep_conditioning else None
            self.register_parameter(name, value)

    def forward(self, x: Tensor, time: Tensor | None, noise: Noise) -> Tensor:
        """x (B, C, F, h, w), time (B,) in 0..1."""
        if self.timestep_scale_multiplier is not None and time is not None:
            time = time * self.timestep_scale_multiplier.float()
        x = self.conv_in(x)
        for block in (self.mid_block, *self.up_blocks):
            x = block(x, time, noise)
        level = embedded(self.time_embedder, time, x)
        x = timed(rms_normed(x), self.scale_shift_table, level)
        return self.conv_out(F.silu(x))


class AutoencoderKLLTXVideo(nn.Module):
    """Clips (B, 3, 1 + 8 n, H, W) in [-1, 1] <-> latents (B, C, 1 + n, H / 32, W / 32) of unit
    spread."""

    config_class = AutoencoderKLLTXVideoConfig
    class_name = AutoencoderKLLTXVideoConfig.class_name
    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, config: AutoencoderKLLTXVideoConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        for name in ("latents_mean", "latents_std"):
            self.register_buffer(name, torch.empty(config.latent_channels))

    @property
    def factors(self) -> tuple[int, int]:
        """Frames and pixels a latent cell stands for."""
        c = self.config
        halved = 2 ** sum(c.spatio_temporal_scaling)
        pixels = c.spatial_compression_ratio or c.patch_size * halved
        return c.temporal_compression_ratio or halved, pixels

    def encode(self, clips: Tensor) -> Tensor:
        """The mean of the latents, scaled."""
        check_fit(clips, *self.factors)
        mean, spread = self.scale(clips)
        moments = self.encoder(to_patches(clips, self.config.patch_size))
        return (moments[:, :-1] - mean) / spread

    def decode(self, latents: Tensor, time: float | None = None) -> Tensor:
        """`time` in 0..1 says how noisy the latents are, to a decoder that is told. What some
        decoders add of noise is the same for every clip."""
        mean, spread = self.scale(latents)
        generator = torch.Generator().manual_seed(0)

        def noise(x: Tensor) -> Tensor:
            return torch.randn(x.shape[3:], generator=generator).to(x)

        times = None
        if self.config.timestep_conditioning:
            times = torch.full((len(latents),), time or 0.0, device=latents.device)
        clips = self.decoder(latents * spread + mean, times, noise)
        return from_patches(clips, self.config.patch_size).clamp(-1, 1)

    def scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread of each channel, (1, C, 1, 1, 1)."""
        both = self.latents_mean, self.latents_std / self.config.scaling_factor
        mean, spread = (values.to(like).view(1, -1, 1, 1, 1) for values in both)
        return mean, spread
