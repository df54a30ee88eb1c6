"""The KL autoencoder of latent diffusion (Rombach et al. 2022, section 3.1; Kingma & Welling 2013):
images to latents 8 times smaller a side and back, for Stable Diffusion 1, 2, XL and 3, and FLUX.
The encoder and decoder also serve the vector-quantised models (networks.vq).

Parameter names are those of diffusers' files. Legend: B batch, C channels (of the latent: 4 or 16),
H and W pixels, h and w latent cells."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, zip_longest
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.networks.config import one_of
from daedal.networks.names import Names
from daedal.nn.conv import (
    Conv2d,
    Downsample,
    GroupNorm,
    PixelAttention,
    ResnetBlock,
    Upsample,
    init_,
)
from daedal.nn.cost import count_flops

EPS = 1e-6
# block type -> whether attention follows each residual block
DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """What the encoder and the decoder of every image codec read."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int | tuple[int, int] = 32
    scaling_factor: float = 0.18215
    mid_block_add_attention: bool = True


@dataclass(frozen=True, kw_only=True)
class AutoencoderKLConfig(CodecConfig):
    """`scaling_factor`, `shift_factor`, `latents_mean` and `latents_std` bring latents to zero mean
    and unit variance."""

    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    class_name: ClassVar[str] = "AutoencoderKL"


class Stage(nn.Module):
    """Residual blocks at one resolution, attention after each where asked, then the resampling if
    one is given."""

    def __init__(
        self,
        config: CodecConfig,
        inp: int,
        out: int,
        layers: int,
        attention: bool,
        down: nn.Module | None = None,
        up: nn.Module | None = None,
    ) -> None:
        super().__init__()
        groups, sizes = config.norm_num_groups, [inp] + [out] * layers
        self.attentions = nn.ModuleList(
            PixelAttention(out, groups, EPS) for _ in range(layers if attention else 0)
        )
        self.resnets = nn.ModuleList(
            ResnetBlock(a, b, groups=groups, eps=EPS, act=config.act_fn) for a, b in pairwise(sizes)
        )
        self.downsamplers = nn.ModuleList([] if down is None else [down])
        self.upsamplers = nn.ModuleList([] if up is None else [up])

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C', H', W')
        for resnet, attention in zip_longest(self.resnets, self.attentions):
            x = resnet(x)
            x = x if attention is None else attention(x)
        for resample in (*self.downsamplers, *self.upsamplers):
            x = resample(x)
        return x


class Middle(nn.Module):
    """Residual block, attention over all pixels, residual block, at the lowest resolution."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        channels, groups = config.block_out_channels[-1], config.norm_num_groups
        self.attentions = nn.ModuleList(
            [PixelAttention(channels, groups, EPS)] if config.mid_block_add_attention else []
        )
        self.resnets = nn.ModuleList(
            ResnetBlock(channels, channels, groups=groups, eps=EPS, act=config.act_fn)
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w) -> (B, C, h, w)
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Encoder(nn.Module):
    """Images (B, in_channels, H, W) -> (B, out, h, w)."""

    def __init__(self, config: CodecConfig, out: int) -> None:
        super().__init__()
        sizes = config.block_out_channels
        self.conv_in = Conv2d(config.in_channels, sizes[0], 3, padding=1)
        attention = [
            DOWN[one_of("down_block_types", kind, list(DOWN))] for kind in config.down_block_types
        ]
        downs = [*(Downsample(channels, padding=0) for channels in sizes[:-1]), None]
        rows = zip([sizes[0], *sizes], sizes, attention, downs, strict=False)
        self.down_blocks = nn.ModuleList(
            Stage(config, a, b, config.layers_per_block, attend, down=down)
            for a, b, attend, down in rows
        )
        self.mid_block = Middle(config)
        self.conv_norm_out = GroupNorm(config.norm_num_groups, sizes[-1], EPS)
        self.conv_out = Conv2d(sizes[-1], out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for stage in self.down_blocks:
            x = stage(x)
        return self.conv_out(nn.functional.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """(B, latent_channels, h, w) -> images (B, out_channels, H, W)."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        sizes = config.block_out_channels[::-1]
        self.conv_in = Conv2d(config.latent_channels, sizes[0], 3, padding=1)
        attention = [UP[one_of("up_block_types", kind, list(UP))] for kind in config.up_block_types]
        ups = [*(Upsample(channels) for channels in sizes[:-1]), None]
        rows = zip([sizes[0], *sizes], sizes, attention, ups, strict=False)
        self.up_blocks = nn.ModuleList(
            Stage(config, a, b, config.layers_per_block + 1, attend, up=up)
            for a, b, attend, up in rows
        )
        self.mid_block = Middle(config)
        self.conv_norm_out = GroupNorm(config.norm_num_groups, sizes[-1], EPS)
        self.conv_out = Conv2d(sizes[-1], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for stage in self.up_blocks:
            x = stage(x)
        return self.conv_out(nn.functional.silu(self.conv_norm_out(x)))


class AutoencoderKL(nn.Module):
    """`encode` images to latents as the denoiser sees them, `decode` them back. Images are in [-1,
    1]."""

    config_class = AutoencoderKLConfig
    class_name = AutoencoderKLConfig.class_name
    # files of 2022
    former = (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))
    names = Names(former=tuple((f".{old}.", f".{new}.") for old, new in former))

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        self.config, C = config, config.latent_channels
        self.encoder = Encoder(config, 2 * C)
        self.decoder = Decoder(config)
        self.quant_conv = Conv2d(2 * C, 2 * C, 1) if config.use_quant_conv else None
        self.post_quant_conv = Conv2d(C, C, 1) if config.use_post_quant_conv else None

    @property
    def factor(self) -> int:
        """Pixels a side of one latent cell."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    def forward(
        self, images: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """images (B, 3, H, W) -> their reconstruction, and the mean and log variance whose
        divergence from N(0, 1) training penalises."""
        mean, logvar = self.moments(images)
        return self._decode(mean + (0.5 * logvar).exp() * noise_like(mean, generator)), mean, logvar

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (B, 3, H, W) -> mean and log variance of the posterior, unscaled, each (B, C, h,
        w)."""
        h = self.encoder(self._safe(images))
        h = h if self.quant_conv is None else self.quant_conv(h)
        mean, logvar = h.to(images.dtype).chunk(2, 1)
        return mean, logvar.clamp(-30, 20)

    def encode(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """images (B, 3, H, W) -> latents (B, C, h, w) scaled for the denoiser: a sample of the
        posterior drawn with `generator`, or its mean without one."""
        mean, logvar = self.moments(images)
        if generator is not None:
            mean = mean + (0.5 * logvar).exp() * noise_like(mean, generator)
        return self.scaled(mean)

    def decode(self, latents: Tensor) -> Tensor:
        """latents (B, C, h, w) as the denoiser leaves them -> images (B, 3, H, W)."""
        return self._decode(self.unscaled(latents))

    def scaled(self, z: Tensor) -> Tensor:
        """Posterior sample -> denoiser's latent: (z - shift) * scaling_factor / std, shift being
        `shift_factor` or `latents_mean`."""
        shift, std = self._statistics(z)
        return (z - shift) * self.config.scaling_factor / std

    def unscaled(self, latents: Tensor) -> Tensor:
        """The inverse of `scaled`."""
        shift, std = self._statistics(latents)
        return latents * std / self.config.scaling_factor + shift

    def init_weights(self, seed: int = 0) -> Self:
        """Weights for training from scratch."""
        return init_(self, seed)

    def flops(self, height: int, width: int) -> dict[str, int]:
        """Floating-point operations (a multiply-add is two) to encode and to decode one image of
        that many pixels."""
        c, shape = self.config, (height // self.factor, width // self.factor)
        images, latents = (1, c.in_channels, height, width), (1, c.latent_channels, *shape)
        encode = count_flops(self, lambda vae: vae.moments(torch.empty(images)))
        decode = count_flops(self, lambda vae: vae.decode(torch.empty(latents)))
        return {"encode": encode, "decode": decode}

    def _decode(self, z: Tensor) -> Tensor:
        h = self._safe(z)
        h = h if self.post_quant_conv is None else self.post_quant_conv(h)
        return self.decoder(h).to(z.dtype)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shift: tuple[float, ...] = self.config.latents_mean or (self.config.shift_factor or 0.0,)
        std = self.config.latents_std or (1.0,)
        # (C or 1, 1, 1)
        return like.new_tensor(shift)[:, None, None], like.new_tensor(std)[:, None, None]

    def _safe(self, x: Tensor) -> Tensor:
        """In float16 the activations of some autoencoders overflow (`force_upcast`): those run in
        float32."""
        return x.float() if self.config.force_upcast and x.dtype == torch.float16 else x


def noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal of x's shape, drawn on the generator's own device so that a seed gives the
    same latents everywhere."""
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=torch.float32).to(x)


def decode_tiled(
    vae: AutoencoderKL, latents: Tensor, tile: int = 64, overlap: int = 16
) -> Generator[None, None, Tensor]:
    """`vae.decode` of overlapping square tiles of `latents` (B, C, h, w), blended linearly where
    they overlap: a generator that yields None after each tile and returns (B, 3, H, W).

    Memory then depends on `tile` (latent cells a side), not on the image. Group norms would see the
    tile for the image, and every tile would get another contrast: they take the statistics of the
    whole picture, made small enough for one tile, instead."""
    whole = statistics(vae.decoder, partial(vae.decode, shrunk(latents, tile)))
    yield None
    total = weight = None
    for top in starts(latents.shape[2], tile, overlap):
        for left in starts(latents.shape[3], tile, overlap):
            with normed_by(whole):
                part = vae.decode(latents[:, :, top : top + tile, left : left + tile])
            factor = part.shape[2] // min(tile, latents.shape[2])
            if total is None or weight is None:
                total = part.new_zeros(
                    *part.shape[:2], latents.shape[2] * factor, latents.shape[3] * factor
                )
                weight = part.new_zeros(total.shape[2:])
            rows, columns = (
                slice(at * factor, at * factor + size)
                for at, size in zip((top, left), part.shape[2:], strict=True)
            )
            ramp = tent(part.shape[2], overlap * factor, part)[:, None] * tent(
                part.shape[3], overlap * factor, part
            )
            total[:, :, rows, columns] += part * ramp
            weight[rows, columns] += ramp
            yield None
    assert total is not None and weight is not None
    return total / weight


def shrunk(latents: Tensor, side: int) -> Tensor:
    """latents (B, C, h, w) with no side above `side`, by leaving cells out: a mean of neighbours
    would have a smaller variance."""
    sizes = [min(size, side) for size in latents.shape[2:]]
    return F.interpolate(latents, sizes, mode="nearest-exact")


Statistics = dict[nn.GroupNorm, tuple[Tensor, Tensor]]


def statistics(module: nn.Module, run: Callable[[], object]) -> Statistics:
    """Mean and variance (B, G, 1) that each group norm of `module` meets while `run` runs."""
    found: Statistics = {}

    def watch(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.GroupNorm)
        groups = args[0].float().view(len(args[0]), norm.num_groups, -1)
        variance, mean = torch.var_mean(groups, dim=2, correction=0, keepdim=True)
        found[norm] = (mean, variance)

    norms = [each for each in module.modules() if isinstance(each, nn.GroupNorm)]
    handles = [norm.register_forward_pre_hook(watch) for norm in norms]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def normed_by(found: Statistics) -> Iterator[None]:
    """Inside, these group norms take the statistics given instead of those of what they meet."""

    def normed(norm: nn.GroupNorm, args: tuple[Tensor, ...], _: Tensor) -> Tensor:
        (x,), (mean, variance) = args, found[norm]
        groups = x.float().view(len(x), norm.num_groups, -1)
        out = ((groups - mean) * (variance + norm.eps).rsqrt()).view_as(x).to(x)
        shape = (-1, *[1] * (x.dim() - 2))
        return out * norm.weight.view(shape) + norm.bias.view(shape)

    handles = [norm.register_forward_hook(normed) for norm in found]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin: every tile - overlap cells, the last one flush with the end."""
    return [*range(0, max(length - tile, 0), tile - overlap), max(length - tile, 0)]


def tent(length: int, ramp: int, like: Tensor) -> Tensor:
    """Weights (length,) that rise from both ends over `ramp` pixels and are 1 between; never zero."""
    at = torch.arange(1, length + 1, device=like.device, dtype=like.dtype)
    return (torch.minimum(at, at.flip(0)) / max(ramp, 1)).clamp(max=1.0)
