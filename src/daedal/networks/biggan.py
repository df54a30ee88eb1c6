"""BigGAN (Brock et al. 2019): a class-conditional generator whose batch norms are steered by the
class and a slice of z, a residual discriminator with a class projection (Miyato & Koyama 2018),
spectral norms throughout (Miyato et al. 2018), self-attention at one size (Zhang et al. 2019).
Parameter names are those of the authors' PyTorch release.

Legend: B batch, C channels, Z width of z, E width of the class embedding."""

import itertools
from dataclasses import dataclass
from typing import ClassVar, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError

# Channel multiples by picture size: of the generator from 4 x 4 up, of the discriminator's blocks
# from the picture down.
WIDTHS = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}
JUDGES = {
    32: (4, 4, 4, 4),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
}
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class BigGANConfig:
    resolution: int = 64
    n_classes: int = 1000
    dim_z: int = 128
    shared_dim: int = 128
    G_ch: int = 64
    G_attn: int = 64  # picture size at which the generator attends; 0 for none
    hier: bool = True  # a slice of z to every block
    BN_eps: float = 1e-5

    class_name: ClassVar[str] = "BigGANGenerator"

    def __post_init__(self) -> None:
        check_size(self.resolution)
        if self.hier and self.dim_z % (len(WIDTHS[self.resolution])):
            raise DaedalError(
                f"dim_z={self.dim_z} does not split into {len(WIDTHS[self.resolution])} slices; take a multiple."
            )

    @property
    def slice(self) -> int:
        return self.dim_z // len(WIDTHS[self.resolution]) if self.hier else self.dim_z


@dataclass(frozen=True, kw_only=True)
class BigGANDiscriminatorConfig:
    resolution: int = 64
    n_classes: int = 1000
    D_ch: int = 64
    D_attn: int = 64

    class_name: ClassVar[str] = "BigGANDiscriminator"

    def __post_init__(self) -> None:
        check_size(self.resolution)


def check_size(side: int) -> None:
    if side not in WIDTHS:
        raise DaedalError(
            f"BigGAN is made for pictures of {', '.join(map(str, WIDTHS))} pixels, not {side}."
        )


# ---- layers --------------------------------------------------------------------------------------


class Spectral(nn.Module):
    """A weight divided by its largest singular value, which one step of power iteration a pass
    follows (while training it is kept)."""

    def __init__(self, *shape: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape[0])) if bias else None
        self.u0: Tensor
        self.sv0: Tensor
        self.register_buffer("u0", torch.zeros(1, shape[0]))
        self.register_buffer("sv0", torch.ones(1))

    def normal(self) -> Tensor:
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(self.u0 @ matrix, eps=1e-12)
            u = F.normalize(v @ matrix.mT, eps=1e-12)
        sigma = (v @ matrix.mT @ u.mT).squeeze()
        if self.training:
            self.u0, self.sv0 = u, sigma.detach().view(1)
        return self.weight / sigma


class SpectralConv(Spectral):
    def __init__(self, inp: int, out: int, size: int = 3, bias: bool = True) -> None:
        super().__init__(out, inp, size, size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C', H, W)
        return F.conv2d(x, self.normal(), self.bias, padding=self.weight.shape[-1] // 2)


class SpectralLinear(Spectral):
    def __init__(self, inp: int, out: int, bias: bool = True) -> None:
        super().__init__(out, inp, bias=bias)

    def forward(self, x: Tensor) -> Tensor:  # (B, in) -> (B, out)
        return F.linear(x, self.normal(), self.bias)


class SpectralEmbedding(Spectral):
    def __init__(self, count: int, width: int) -> None:
        super().__init__(count, width, bias=False)

    def forward(self, labels: Tensor) -> Tensor:  # (B,) -> (B, width)
        return F.embedding(labels, self.normal())


class ConditionalNorm(nn.Module):
    """Batch norm whose gain and bias come from a condition (B, E + slice)."""

    def __init__(self, channels: int, condition: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.stored_mean: Tensor
        self.stored_var: Tensor
        self.gain = SpectralLinear(condition, channels, bias=False)
        self.bias = SpectralLinear(condition, channels, bias=False)
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = F.batch_norm(
            x, self.stored_mean, self.stored_var, None, None, self.training, 0.1, self.eps
        )
        return (
            x * (1 + self.gain(condition))[:, :, None, None]
            + self.bias(condition)[:, :, None, None]
        )


class PlainNorm(nn.Module):
    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.stored_mean: Tensor
        self.stored_var: Tensor
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.stored_mean, self.stored_var, self.gain, self.bias, self.training, 0.1, self.eps
        )


class SelfAttention(nn.Module):
    """x + gamma * attention, keys and values at half the size (SAGAN, as released)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.theta = SpectralConv(channels, channels // 8, 1, bias=False)
        self.phi = SpectralConv(channels, channels // 8, 1, bias=False)
        self.g = SpectralConv(channels, channels // 2, 1, bias=False)
        self.o = SpectralConv(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros([]))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        q = self.theta(x).flatten(2).mT[:, None]  # (B, 1, HW, C/8)
        k, v = (F.max_pool2d(conv(x), 2).flatten(2).mT[:, None] for conv in (self.phi, self.g))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0)[:, 0].mT
        return x + self.gamma * self.o(mixed.unflatten(2, x.shape[2:]))


# ---- generator -----------------------------------------------------------------------------------


class GeneratorBlock(nn.Module):
    def __init__(self, inp: int, out: int, condition: int, eps: float) -> None:
        super().__init__()
        self.bn1 = ConditionalNorm(inp, condition, eps)
        self.bn2 = ConditionalNorm(out, condition, eps)
        self.conv1 = SpectralConv(inp, out)
        self.conv2 = SpectralConv(out, out)
        self.conv_sc = SpectralConv(inp, out, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C', 2H, 2W)
        h = self.conv1(F.interpolate(F.relu(self.bn1(x, condition)), scale_factor=2))
        return self.conv2(F.relu(self.bn2(h, condition))) + self.conv_sc(
            F.interpolate(x, scale_factor=2)
        )


class BigGANGenerator(nn.Module):
    """z and a class to pictures."""

    class_name = "BigGANGenerator"
    config_class = BigGANConfig

    def __init__(self, config: BigGANConfig) -> None:
        super().__init__()
        self.config, c = config, config
        widths = [c.G_ch * m for m in WIDTHS[c.resolution]]
        condition = c.shared_dim + (c.slice if c.hier else 0)
        self.shared = nn.Embedding(c.n_classes, c.shared_dim)
        self.linear = SpectralLinear(c.slice, widths[0] * 16)
        blocks = []
        for i, (inp, out) in enumerate(itertools.pairwise(widths)):
            attends = [SelfAttention(out)] if 8 * 2**i == c.G_attn else []
            blocks.append(nn.ModuleList([GeneratorBlock(inp, out, condition, c.BN_eps), *attends]))
        self.blocks = nn.ModuleList(blocks)
        self.output_layer = nn.ModuleDict(
            {"0": PlainNorm(widths[-1], c.BN_eps), "2": SpectralConv(widths[-1], 3)}
        )

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """z (B, Z), labels (B,) classes, or (B, E) embeddings of them (to walk between classes) ->
        pictures (B, 3, side, side) in (-1, 1)."""
        y = self.shared(labels) if labels.dim() == 1 else labels
        first, *rest = z.split(self.config.slice, 1)
        if self.config.hier:
            conditions = [torch.cat([y, part], 1) for part in rest]
        else:
            conditions = [y] * len(self.blocks)
        x = self.linear(first).view(len(z), -1, 4, 4)
        for blocks, condition in zip(self.blocks, conditions, strict=True):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, condition)
        return self.output_layer["2"](F.relu(self.output_layer["0"](x))).tanh()

    def init_weights(self, seed: int = 0) -> Self:
        return init_orthogonal(self, seed)


def truncated(shape: tuple[int, ...], threshold: float, generator: torch.Generator) -> Tensor:
    """Normals drawn again while they are beyond `threshold`: less variety, better pictures (Brock
    et al. 2019, section 3.1)."""
    edge = torch.special.ndtr(torch.tensor(-threshold, dtype=torch.float64))
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64) * (1 - 2 * edge) + edge
    return torch.special.ndtri(uniform).float()


# ---- discriminator -------------------------------------------------------------------------------


class DiscriminatorBlock(nn.Module):
    def __init__(self, inp: int, out: int, first: bool, down: bool) -> None:
        super().__init__()
        self.first, self.down = first, down
        self.conv1, self.conv2 = SpectralConv(inp, out), SpectralConv(out, out)
        self.conv_sc = SpectralConv(inp, out, 1) if inp != out or down else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        # nothing to activate yet: the shortcut shrinks before it mixes channels, which is cheaper
        # and the same
        if self.first:
            return self.shrunk(h) + self.mixed(self.shrunk(x))
        return self.shrunk(h) + self.shrunk(self.mixed(x))

    def shrunk(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if self.down else x

    def mixed(self, x: Tensor) -> Tensor:
        return x if self.conv_sc is None else self.conv_sc(x)


class BigGANDiscriminator(nn.Module):
    """Pictures and their class to scores."""

    class_name = "BigGANDiscriminator"
    config_class = BigGANDiscriminatorConfig

    def __init__(self, config: BigGANDiscriminatorConfig) -> None:
        super().__init__()
        self.config, c = config, config
        widths = [3, *(c.D_ch * m for m in JUDGES[c.resolution])]
        if c.resolution == 32:
            downs = [True, True, False, False]
        else:
            downs = [True] * (len(widths) - 2) + [False]
        blocks, side = [], c.resolution
        for i, (inp, out, down) in enumerate(zip(widths[:-1], widths[1:], downs, strict=True)):
            side = side // 2 if down else side
            block = DiscriminatorBlock(inp, out, i == 0, down)
            blocks.append(
                nn.ModuleList([block, SelfAttention(out)] if side == c.D_attn else [block])
            )
        self.blocks = nn.ModuleList(blocks)
        self.linear = SpectralLinear(widths[-1], 1)
        self.embed = SpectralEmbedding(c.n_classes, widths[-1])

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """images (B, 3, side, side), labels (B,) -> scores (B, 1), higher for real ones of that
        class."""
        x = images
        for blocks in self.blocks:
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x)
        x = F.relu(x).sum((2, 3))
        return self.linear(x) + (self.embed(labels) * x).sum(1, keepdim=True)

    def init_weights(self, seed: int = 0) -> Self:
        return init_orthogonal(self, seed)


def init_orthogonal(module: M, seed: int) -> M:
    """Orthogonal matrices (Saxe et al. 2014), zero biases."""
    draw = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, Spectral | nn.Embedding):
            part.weight.data = nn.init.orthogonal_(torch.empty(part.weight.shape), generator=draw)
        if isinstance(part, Spectral):
            part.u0 = torch.randn(part.u0.shape, generator=draw)
            if part.bias is not None:
                part.bias.data = torch.zeros(part.bias.shape)
    return module


def orthogonality(module: nn.Module) -> Tensor:
    """Sum over weights of |W W^T off its diagonal|^2 / 2, the regulariser that lets truncation work
    (Brock et al. 2019, eq. 3)."""
    total = torch.zeros(())
    for part in module.modules():
        if isinstance(part, Spectral):
            gram = part.weight.flatten(1) @ part.weight.flatten(1).mT
            total = total + (gram - gram.diagonal().diag()).square().sum() / 2
    return total
