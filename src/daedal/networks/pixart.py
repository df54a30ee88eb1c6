"""PixArt-alpha and PixArt-Sigma (Chen et al. 2023, 2024): DiT with cross-attention to T5's text,
and one adaLN for all blocks, to which each adds a table of its own.

Parameter names are those of diffusers' files. Legend: B batch, C channels, H and W latent cells, T
patches, L text tokens, D width."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.networks.config import one_of
from daedal.networks.dit import DiTConfig, DiTTransformer2DModel, positions
from daedal.networks.unet_blocks import Keys
from daedal.nn.conv import multi_head
from daedal.nn.cost import count_flops
from daedal.nn.dit import (
    FeedForward,
    Modulation,
    PatchEmbed,
    SelfAttention,
    modulated,
    unpatchify,
    wanted_text,
)
from daedal.nn.linear import Linear, linears
from daedal.nn.timestep import Timestep, TimestepEmbedding, sinusoidal


@dataclass(frozen=True, kw_only=True)
class PixArtConfig(DiTConfig):
    """`use_additional_conditions` (the size of the image; alpha at 1024 pixels) and
    `interpolation_scale` (how much further apart positions are in the pictures than in the
    sinusoids) follow from `sample_size` where they are None."""

    out_channels: int | None = 8
    cross_attention_dim: int = 1152
    sample_size: int = 128
    norm_eps: float = 1e-6
    interpolation_scale: float | None = None
    use_additional_conditions: bool | None = None
    caption_channels: int | None = None

    class_name: ClassVar[str] = "PixArtTransformer2DModel"
    fixed: ClassVar[dict[str, Any]] = DiTConfig.fixed | {
        "norm_type": "ada_norm_single",
        "attention_type": "default",
    }

    @property
    def told_size(self) -> bool:
        if self.use_additional_conditions is None:
            return self.sample_size == 128
        return self.use_additional_conditions

    @property
    def scale(self) -> float:
        return self.interpolation_scale or max(self.sample_size // 64, 1)


class Condition(Timestep):
    """The noise level as a vector, to which some models add the size of the image and its aspect
    ratio."""

    def __init__(self, c: PixArtConfig) -> None:
        super().__init__(c.dim)
        self.resolution_embedder = TimestepEmbedding(256, c.dim // 3) if c.told_size else None
        self.aspect_ratio_embedder = TimestepEmbedding(256, c.dim // 3) if c.told_size else None

    def forward(self, x: Tensor, time: Tensor, added: dict[str, Tensor]) -> Tensor:  # -> (B, D)
        e = self.level(time.expand(len(x)), x.dtype)
        if self.resolution_embedder is None or self.aspect_ratio_embedder is None:
            return e
        parts = {"resolution": self.resolution_embedder, "aspect_ratio": self.aspect_ratio_embedder}
        if missing := [key for key in parts if key not in added]:
            raise DaedalError(
                f"this PixArt is told the size of the image, and added[{missing[0]!r}] was not given; pass it."
            )
        sizes = [
            embed(sinusoidal(added[key].flatten(), 256).to(x.dtype)).view(len(x), -1)
            for key, embed in parts.items()
        ]
        return e + torch.cat(sizes, -1)


class SharedNorm(Modulation):
    def __init__(self, c: PixArtConfig) -> None:
        super().__init__(c.dim, 6)
        self.emb = Condition(c)


class CrossAttention(nn.Module):
    def __init__(self, c: PixArtConfig) -> None:
        super().__init__()
        D, text, bias = c.dim, c.cross_attention_dim, c.attention_bias
        self.heads = c.num_attention_heads
        self.to_q = Linear(D, D, bias=bias)
        self.to_k = Linear(text, D, bias=bias)
        self.to_v = Linear(text, D, bias=bias)
        self.to_out = nn.ModuleList([Linear(D, D)])

    def keys(self, text: Tensor) -> Keys:  # (B, L, D)
        k, v = linears(text, self.to_k, self.to_v)
        return Keys(k, v)

    # (B, T, D), mask (B, 1, 1, L) -> (B, T, D)
    def forward(self, x: Tensor, keys: Keys, mask: Tensor | None) -> Tensor:
        return self.to_out[0](multi_head(self.to_q(x), keys.k, keys.v, self.heads, mask))


class PixArtBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward. The cross-attention has no norm and no gate."""

    def __init__(self, c: PixArtConfig) -> None:
        super().__init__()
        self.eps, self.scale_shift_table = c.norm_eps, nn.Parameter(torch.empty(6, c.dim))
        self.attn1 = SelfAttention(c.dim, c.num_attention_heads, bias=c.attention_bias)
        self.attn2 = CrossAttention(c)
        self.ff = FeedForward(c.dim)

    # (B, T, D), (B, 6, D) -> (B, T, D)
    def forward(self, x: Tensor, shared: Tensor, keys: Keys, mask: Tensor | None) -> Tensor:
        shift, scale, gate, *feed = (self.scale_shift_table.to(x.dtype) + shared).chunk(6, 1)
        x = x + gate * self.attn1(modulated(x, shift, scale, self.eps))
        x = x + self.attn2(x, keys, mask)
        return self.ff.added(x, feed, self.eps)


class PixArtTransformer2DModel(nn.Module):
    """Noisy latents, a noise level and T5's text -> a prediction of the noise and of its variance."""

    config_class = PixArtConfig
    class_name = PixArtConfig.class_name

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        self.config, D = config, config.dim
        self.pos_embed = PatchEmbed(config.in_channels, D, config.patch_size)
        self.adaln_single = SharedNorm(config)
        text = config.caption_channels
        self.caption_projection = TimestepEmbedding(text, D, "gelu_pytorch_tanh") if text else None
        self.transformer_blocks = nn.ModuleList(
            PixArtBlock(config) for _ in range(config.num_layers)
        )
        self.scale_shift_table = nn.Parameter(torch.empty(2, D))
        self.proj_out = Linear(D, config.patch_size**2 * config.outputs)

    def text_keys(self, text: Tensor) -> list[Keys]:
        """text (B, L, caption_channels) -> the keys and values of every block. They depend on
        nothing else, so once a prompt is enough."""
        text = text if self.caption_projection is None else self.caption_projection(text)
        blocks: list[Any] = list(self.transformer_blocks)
        return [block.attn2.keys(text) for block in blocks]

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        text: Tensor | None = None,
        *,
        text_mask: Tensor | None = None,
        added: dict[str, Tensor] | None = None,
        text_kv: Sequence[Keys] | None = None,
    ) -> Tensor:
        """x (B, in_channels, H, W), time (B,) or (1,) in 0..999, text (B, L, caption_channels), or
        text_kv = text_keys(text) in its place -> (B, out_channels, H, W): the noise, then its
        variance, which samplers drop: out[:, :in_channels].

        text_mask (B, L), True where a token exists; added: "resolution" (B, 2), height and width in
        pixels, and "aspect_ratio" (B, 1)."""
        keys = self.text_keys(wanted_text(text, self).to(x.dtype)) if text_kv is None else text_kv
        mask = None if text_mask is None else text_mask.bool()[:, None, None]
        condition = self.adaln_single.emb(x, time, added or {})
        shared = torch.cat(self.adaln_single(condition), 1)  # (B, 6, D)
        h = self.pos_embed(x) + positions(self.config, x, self.config.scale)
        for block, key in zip(self.transformer_blocks, keys, strict=True):
            h = block(h, shared, key, mask)
        shift, scale = (self.scale_shift_table.to(x.dtype) + condition[:, None]).chunk(2, 1)
        return unpatchify(
            self.proj_out(modulated(h, shift, scale)), self.pos_embed.patch, *x.shape[2:]
        )

    def flops(self, height: int, width: int, text_tokens: int = 120) -> int:
        """Floating-point operations of one call on one latent of that size, the text's keys
        included; a multiply-add is two."""
        c = self.config

        def call(pixart: Any) -> None:
            text = torch.empty(1, text_tokens, c.caption_channels or c.cross_attention_dim)
            added = {"resolution": torch.empty(1, 2), "aspect_ratio": torch.empty(1, 1)}
            pixart(torch.empty(1, c.in_channels, height, width), torch.empty(1), text, added=added)

        return count_flops(self, call)


@dataclass(frozen=True, kw_only=True)
class Transformer2DConfig(PixArtConfig):
    """The config of a `Transformer2DModel`, which is what the published folders of DiT and PixArt
    call both; `norm_type` tells them apart."""

    out_channels: int | None = None
    num_attention_heads: int = 16
    attention_head_dim: int = 88
    norm_eps: float = 1e-5
    cross_attention_dim: int | None = None  # type: ignore[assignment]
    norm_type: str = "layer_norm"
    attention_bias: bool = False

    class_name: ClassVar[str] = "Transformer2DModel"
    fixed: ClassVar[dict[str, Any]] = {key: value for key, value in PixArtConfig.fixed.items() if key != "norm_type"} | {
        "double_self_attention": False, "only_cross_attention": False, "num_vector_embeds": None, "use_linear_projection": False,
    }  # fmt: skip


class Transformer2DModel:
    """Calling it makes the DiT or the PixArt that the config means. They are saved under their own
    names."""

    config_class = Transformer2DConfig

    def __new__(cls, config: Transformer2DConfig) -> Any:
        kinds: dict[str, Any] = {
            "ada_norm_zero": DiTTransformer2DModel,
            "ada_norm_single": PixArtTransformer2DModel,
        }
        kind = kinds[one_of("norm_type", config.norm_type, list(kinds))]
        return kind(
            kind.config_class(
                **{
                    key.name: getattr(config, key.name)
                    for key in dataclasses.fields(kind.config_class)
                }
            )
        )
