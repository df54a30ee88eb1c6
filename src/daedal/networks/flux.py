"""The transformer of FLUX.1 (Black Forest Labs 2024): dev, schnell, and fill, canny and depth,
which are told more channels, and kontext, which is told more images. Blocks of two streams as in
SD3, then blocks of one stream whose attention and feed-forward run side by side (Dehghani et al.
2023); rotary positions on three axes.

It works on latents packed 2 x 2 into tokens: `pack`, `positions`, `unpack`. Parameter names are
those of diffusers' files. Legend: B batch, C channels, H and W latent cells, N image tokens, L text
tokens, D width, K head dim, P width of the pooled text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.nn.conv import to_tokens
from daedal.nn.cost import count_flops
from daedal.nn.dit import LastNorm, Modulation, Rope, SelfAttention, modulated
from daedal.nn.joint import NO_CONTROL, Condition, JointBlock, Residuals
from daedal.nn.linear import Linear

THETA = 10_000.0


@dataclass(frozen=True, kw_only=True)
class FluxConfig:
    """dev has `guidance_embeds`; fill has 384 `in_channels`, canny and depth 128, of which 64 come
    out. `axes_dims_rope`: how much of a head each axis turns."""

    in_channels: int = 64
    out_channels: int | None = None  # None: as many as come in
    num_layers: int = 19
    num_single_layers: int = 38
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 4096
    pooled_projection_dim: int = 768
    guidance_embeds: bool = False
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)

    class_name: ClassVar[str] = "FluxTransformer2DModel"
    fixed: ClassVar[dict[str, Any]] = {"patch_size": 1}

    @property
    def dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim


def pack(latents: Tensor) -> Tensor:
    """latents (B, C, H, W) -> tokens (B, H/2 * W/2, 4C), row by row."""
    if latents.shape[2] % 2 or latents.shape[3] % 2:
        raise DaedalError(
            f"{latents.shape[2]} x {latents.shape[3]} latent cells cannot be packed 2 x 2; make the image a multiple of 16 pixels."
        )
    return to_tokens(F.pixel_unshuffle(latents, 2))


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse: (B, H/2 * W/2, 4C) -> latents (B, C, height, width)."""
    return F.pixel_shuffle(tokens.mT.unflatten(2, (height // 2, width // 2)), 2)


def positions(
    height: int, width: int, image: int = 0, device: torch.device | None = None
) -> Tensor:
    """(H/2 * W/2, 3) float32: which image, row and column each token of latents of that size is.
    The image that is made is number 0; one that is given beside it (kontext) is 1."""
    grid = [torch.arange(side // 2, device=device) for side in (height, width)]
    rows, columns = torch.meshgrid(*grid, indexing="ij")
    return torch.stack([torch.full_like(rows, image), rows, columns], -1).flatten(0, 1).float()


def rope(ids: Tensor, axes: Sequence[int]) -> Rope:
    """Positions (T, len(axes)) -> cosines and sines (T, 1, sum(axes)/2); each axis turns its own
    channels of a head."""
    waves = [THETA ** -(torch.arange(0, dim, 2, device=ids.device) / dim) for dim in axes]
    angles = torch.cat([ids[:, i, None] * wave for i, wave in enumerate(waves)], -1)[:, None]
    return angles.cos(), angles.sin()


class SingleBlock(nn.Module):
    """x + gate * proj_out(attention(h), gelu(proj_mlp(h))), h being the modulated norm of x, over
    text and image as one sequence."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm = Modulation(dim, 3)
        self.attn = SelfAttention(dim, heads, qk_norm=True, out=False)
        self.proj_mlp, self.proj_out = Linear(dim, 4 * dim), Linear(5 * dim, dim)

    # (B, L + N, D), (B, D) -> (B, L + N, D)
    def forward(self, x: Tensor, condition: Tensor, rope: Rope) -> Tensor:
        shift, scale, gate = self.norm(condition)
        h = modulated(x, shift, scale)
        return x + gate * self.proj_out(
            torch.cat([self.attn(h, rope), F.gelu(self.proj_mlp(h), approximate="tanh")], -1)
        )


class FluxTrunk(nn.Module):
    """What the model and its ControlNets share: embeddings and blocks."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self.config, c, D, heads = config, config, config.dim, config.num_attention_heads
        self.time_text_embed = Condition(D, c.pooled_projection_dim, c.guidance_embeds)
        self.context_embedder = Linear(c.joint_attention_dim, D)
        self.x_embedder = Linear(c.in_channels, D)
        self.transformer_blocks = nn.ModuleList(
            JointBlock(D, heads, qk_norm=True) for _ in range(c.num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            SingleBlock(D, heads) for _ in range(c.num_single_layers)
        )

    def turns(self, words: Tensor, ids: Tensor) -> Rope:
        """Of all tokens, the text (B, L, D) first: it stands where the first token of the image
        does."""
        return rope(
            torch.cat([ids.new_zeros(words.shape[1], ids.shape[1]), ids]),
            self.config.axes_dims_rope,
        )


class FluxTransformer2DModel(FluxTrunk):
    """Noisy packed latents, a time, text and pooled text -> the velocity, noise minus image,
    packed."""

    config_class = FluxConfig
    class_name = FluxConfig.class_name

    def __init__(self, config: FluxConfig) -> None:
        super().__init__(config)
        self.norm_out = LastNorm(config.dim)
        self.proj_out = Linear(config.dim, config.out_channels or config.in_channels)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        text: Tensor,
        pooled: Tensor,
        ids: Tensor,
        *,
        guidance: Tensor | None = None,
        control: Residuals = NO_CONTROL,
    ) -> Tensor:
        """x (B, N, in_channels), time (B,) or (1,) in [0, 1], text (B, L, joint_attention_dim),
        pooled (B, P), ids (N, 3) -> (B, N, out_channels).

        x is pack(latents): of fill, canny and depth with the packed condition beside it, channel by
        channel; of kontext with the packed images that are given behind it, token by token, and
        their positions behind its in `ids`. guidance (B,) or (1,): the scale that dev is told.
        control: a ControlNet's residuals."""
        condition = self.time_text_embed(x, time, pooled, guidance)
        h, words = self.x_embedder(x), self.context_embedder(text.to(x.dtype))
        turns = self.turns(words, ids)
        for i, block in enumerate(self.transformer_blocks):
            h, words = block(h, words, condition, turns)
            h = control.add(h, "double", i, len(self.transformer_blocks))
        h = torch.cat([words, h], 1)
        for i, block in enumerate(self.single_transformer_blocks):
            h = control.add(
                block(h, condition, turns), "single", i, len(self.single_transformer_blocks)
            )
        return self.proj_out(self.norm_out(h[:, words.shape[1] :], condition))

    def flops(self, height: int, width: int, text_tokens: int = 512) -> int:
        """Floating-point operations of one call on one latent (not packed) of that size; a
        multiply-add is two."""
        c, tokens = self.config, height * width // 4

        def call(flux: Any) -> None:
            x = torch.empty(1, tokens, c.in_channels)
            text = torch.empty(1, text_tokens, c.joint_attention_dim)
            flux(
                x,
                torch.empty(1),
                text,
                torch.empty(1, c.pooled_projection_dim),
                torch.empty(tokens, 3),
                guidance=torch.empty(1),
            )

        return count_flops(self, call)
