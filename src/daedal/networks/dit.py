"""DiT (Peebles & Xie 2023): a transformer over patches of latents, told the noise level and a
class. The model of ImageNet samples.

Parameter names are those of diffusers' files. Legend: B batch, C channels, H and W latent cells, T
patches, D width."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.nn.conv import init_
from daedal.nn.cost import count_flops
from daedal.nn.dit import (
    FeedForward,
    Modulation,
    PatchEmbed,
    SelfAttention,
    modulated,
    sincos_grid,
    unpatchify,
)
from daedal.nn.linear import Embedding, Linear
from daedal.nn.timestep import TimestepEmbedding, sinusoidal


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    num_attention_heads: int = 16
    attention_head_dim: int = 72
    in_channels: int = 4
    out_channels: int | None = None  # None: as many as come in
    num_layers: int = 28
    attention_bias: bool = True
    sample_size: int = 32
    patch_size: int = 2
    num_embeds_ada_norm: int = 1000
    norm_eps: float = 1e-5

    class_name: ClassVar[str] = "DiTTransformer2DModel"
    fixed: ClassVar[dict[str, Any]] = {
        "activation_fn": "gelu-approximate", "norm_type": "ada_norm_zero", "norm_elementwise_affine": False, "dropout": 0.0,
    }  # fmt: skip
    # attention here sums its scores in float32
    ignored: ClassVar[frozenset[str]] = frozenset({"norm_num_groups", "upcast_attention"})

    @property
    def dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def outputs(self) -> int:
        return self.out_channels or self.in_channels


class ClassEmbedding(nn.Module):
    """One vector for each class, and a last one for none."""

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        self.embedding_table = Embedding(classes + 1, dim)

    def forward(self, labels: Tensor) -> Tensor:  # (B,) -> (B, D)
        return self.embedding_table(labels)


class Condition(nn.Module):
    """The noise level and the class as one vector."""

    def __init__(self, c: DiTConfig) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(256, c.dim)
        self.class_embedder = ClassEmbedding(c.num_embeds_ada_norm, c.dim)

    def forward(self, waves: Tensor, labels: Tensor) -> Tensor:  # (B, 256), (B,) -> (B, D)
        return self.timestep_embedder(waves) + self.class_embedder(labels).to(waves.dtype)


class ConditionalNorm(Modulation):
    """Every block embeds the noise level and the class anew (in the published files with the same
    weights)."""

    def __init__(self, c: DiTConfig) -> None:
        super().__init__(c.dim, 6)
        self.emb = Condition(c)


class DiTBlock(nn.Module):
    """x + gate * attention(modulated(x)), then the same with the feed-forward (adaLN-zero, section
    3.2)."""

    def __init__(self, c: DiTConfig) -> None:
        super().__init__()
        self.norm1, self.eps = ConditionalNorm(c), c.norm_eps
        self.attn1 = SelfAttention(c.dim, c.num_attention_heads, bias=c.attention_bias)
        self.ff = FeedForward(c.dim)

    # (B, T, D), (B, 256), (B,) -> (B, T, D)
    def forward(self, x: Tensor, waves: Tensor, labels: Tensor) -> Tensor:
        shift, scale, gate, *feed = self.norm1(self.norm1.emb(waves, labels))
        x = x + gate * self.attn1(modulated(x, shift, scale))
        return self.ff.added(x, feed, self.eps)


def positions(c: DiTConfig, x: Tensor, scale: float = 1.0) -> Tensor:
    """Those (T, D) of the patches of x (B, C, H, W); grids of any size span what the trained one
    did."""
    height, width = (side // c.patch_size for side in x.shape[2:])
    return sincos_grid(height, width, c.dim, c.sample_size // c.patch_size, scale, x.device).to(
        x.dtype
    )


class DiTTransformer2DModel(nn.Module):
    """Noisy latents, a noise level and a class -> a prediction of the noise and, in the published
    models, of its variance."""

    config_class = DiTConfig
    class_name = DiTConfig.class_name

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config, D = config, config.dim
        self.pos_embed = PatchEmbed(config.in_channels, D, config.patch_size)
        self.transformer_blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.num_layers))
        self.proj_out_1 = Linear(D, 2 * D)
        self.proj_out_2 = Linear(D, config.patch_size**2 * config.outputs)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """x (B, in_channels, H, W), time (B,) or (1,) in 0..999, labels (B,) int64,
        num_embeds_ada_norm for no class -> (B, out_channels, H, W).

        The published models give twice in_channels: the noise, then how far its log variance lies
        between two bounds (Nichol & Dhariwal 2021), which samplers other than DDPM drop: out[:,
        :in_channels]. Guidance belongs on all channels of the noise; the authors' own samples, and
        so their figures, guide the first three of four only."""
        waves = sinusoidal(time.expand(len(x)), 256, shift=1).to(x.dtype)
        h = self.pos_embed(x) + positions(self.config, x)
        for block in self.transformer_blocks:
            h = block(h, waves, labels)
        first: Any = self.transformer_blocks[0]
        shift, scale = self.proj_out_1(F.silu(first.norm1.emb(waves, labels)))[:, None].chunk(2, -1)
        return unpatchify(
            self.proj_out_2(modulated(h, shift, scale)), self.pos_embed.patch, *x.shape[2:]
        )

    def init_weights(self, seed: int = 0) -> Self:
        """Weights for training from scratch: every gate and the output start at zero."""
        return init_(self, seed, zero=("norm1.linear", "proj_out_1", "proj_out_2"))

    def flops(self, height: int, width: int) -> int:
        """Floating-point operations of one call on one latent of that size; a multiply-add is two."""
        x = (1, self.config.in_channels, height, width)
        return count_flops(
            self, lambda dit: dit(torch.empty(x), torch.empty(1), torch.zeros(1, dtype=torch.long))
        )
