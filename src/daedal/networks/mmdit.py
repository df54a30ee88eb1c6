"""The transformer of Stable Diffusion 3 and 3.5 (Esser et al. 2024): MM-DiT, in which text and
image are two streams of tokens that attend to each other.

Parameter names are those of diffusers' files. Legend: B batch, C channels, H and W latent cells, T
patches, L text tokens, D width, P width of the pooled text."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.networks.config import one_of
from daedal.nn.cost import count_flops
from daedal.nn.dit import LastNorm, PatchEmbed, unpatchify
from daedal.nn.joint import NO_CONTROL, Condition, JointBlock, Residuals
from daedal.nn.linear import Linear


@dataclass(frozen=True, kw_only=True)
class SD3Config:
    """SD3 medium has 24 layers of 24 heads; 3.5 large 38 of 38 and `qk_norm`; 3.5 medium 24 of 24,
    `qk_norm`, and a second attention in `dual_attention_layers`."""

    sample_size: int = 128
    patch_size: int = 2
    in_channels: int = 16
    num_layers: int = 18
    attention_head_dim: int = 64
    num_attention_heads: int = 18
    joint_attention_dim: int = 4096
    caption_projection_dim: int = 1152
    pooled_projection_dim: int = 2048
    out_channels: int | None = 16
    pos_embed_max_size: int = 96
    dual_attention_layers: tuple[int, ...] = ()
    qk_norm: str | None = None

    class_name: ClassVar[str] = "SD3Transformer2DModel"

    @property
    def dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def normed(self) -> bool:
        return one_of("qk_norm", self.qk_norm, [None, "rms_norm"]) is not None


class SD3Transformer2DModel(nn.Module):
    """Noisy latents, a time, text and pooled text -> the velocity, noise minus image."""

    config_class = SD3Config
    class_name = SD3Config.class_name

    def __init__(self, config: SD3Config) -> None:
        super().__init__()
        self.config, c, D = config, config, config.dim
        self.pos_embed = PatchEmbed(c.in_channels, D, c.patch_size, c.pos_embed_max_size)
        self.time_text_embed = Condition(D, c.pooled_projection_dim)
        self.context_embedder = Linear(c.joint_attention_dim, c.caption_projection_dim)
        self.transformer_blocks = nn.ModuleList(
            JointBlock(
                D,
                c.num_attention_heads,
                qk_norm=c.normed,
                dual=i in c.dual_attention_layers,
                text_out=i < c.num_layers - 1,
            )
            for i in range(c.num_layers)
        )
        self.norm_out = LastNorm(D)
        self.proj_out = Linear(D, c.patch_size**2 * (c.out_channels or c.in_channels))

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        text: Tensor,
        pooled: Tensor,
        *,
        control: Residuals = NO_CONTROL,
        skip: Collection[int] = (),
    ) -> Tensor:
        """x (B, in_channels, H, W), time (B,) or (1,) in [0, 1], text (B, L, joint_attention_dim),
        pooled (B, P) -> (B, out_channels, H, W).

        control: a ControlNet's residuals. skip: blocks left out, for the worse prediction of
        skip-layer guidance."""
        condition = self.time_text_embed(x, time, pooled)
        h = self.embed(x)
        words = self.context_embedder(text.to(x.dtype))
        for i, block in enumerate(self.transformer_blocks):
            if i not in skip:
                h, words = block(h, words, condition)
            if block.ff_context is not None:
                h = control.add(h, "double", i, len(self.transformer_blocks))
            else:
                h = h
        return unpatchify(
            self.proj_out(self.norm_out(h, condition)), self.config.patch_size, *x.shape[2:]
        )

    def embed(self, x: Tensor) -> Tensor:
        """x (B, in_channels, H, W) as tokens (B, T, D) with positions; some ControlNets read these
        too."""
        return placed(self.pos_embed, x)

    def flops(self, height: int, width: int, text_tokens: int = 333) -> int:
        """Floating-point operations of one call on one latent of that size; a multiply-add is two."""
        c = self.config

        def call(sd3: Any) -> None:
            x = torch.empty(1, c.in_channels, height, width)
            text = torch.empty(1, text_tokens, c.joint_attention_dim)
            sd3(x, torch.empty(1), text, torch.empty(1, c.pooled_projection_dim))

        return count_flops(self, call)


def placed(embed: PatchEmbed, x: Tensor) -> Tensor:
    """x (B, C, H, W) as tokens (B, T, D) with positions: the middle of the table in the file, of
    the size of x in patches."""
    side = round(embed.pos_embed.shape[1] ** 0.5)
    height, width = (n // embed.patch for n in x.shape[2:])
    if max(height, width) > side:
        most = side * embed.patch
        raise DaedalError(
            f"{x.shape[2]} x {x.shape[3]} latent cells are more than the {most} a side this model has positions for; go smaller."
        )
    top, left = (side - height) // 2, (side - width) // 2
    middle = embed.pos_embed.unflatten(1, (side, side))[
        :, top : top + height, left : left + width
    ].flatten(1, 2)
    return embed(x) + middle.to(x.dtype)
