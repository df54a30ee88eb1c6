"""ControlNets (Zhang et al. 2023) of Stable Diffusion 3 and FLUX: some blocks like the model's,
which read the encoded image of a condition beside the noisy latents, and tell the model what to add
behind its blocks.

Parameter names are those of diffusers' files. Legend: B batch, C channels, H and W latent cells, N
image tokens, L text tokens, D width, P width of the pooled text."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.networks.config import one_of
from daedal.networks.controlnet import HintEmbedding
from daedal.networks.flux import FluxConfig, FluxTrunk
from daedal.networks.mmdit import SD3Config, placed
from daedal.nn.conv import to_tokens
from daedal.nn.dit import FeedForward, Modulation, PatchEmbed, SelfAttention, modulated
from daedal.nn.joint import Condition, JointBlock, Residuals
from daedal.nn.linear import Embedding, Linear


@dataclass(frozen=True, kw_only=True)
class SD3ControlNetConfig(SD3Config):
    """Those of SD3.5 large have no `joint_attention_dim`, as they read no text, and no
    `use_pos_embed`, as they are given tokens."""

    joint_attention_dim: int | None = 4096  # type: ignore[assignment]
    extra_conditioning_channels: int = 0  # a mask beside the condition
    pos_embed_type: str | None = "sincos"
    use_pos_embed: bool = True
    force_zeros_for_pooled_projection: bool = True

    class_name: ClassVar[str] = "SD3ControlNetModel"


class ImageBlock(nn.Module):
    """A block without text: x + gate * attention(modulated(x)), then the same with the
    feed-forward."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = Modulation(dim, 6)
        self.attn = SelfAttention(dim, heads)
        self.ff = FeedForward(dim)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:  # (B, N, D), (B, D) -> (B, N, D)
        shift, scale, gate, *feed = self.norm1(condition)
        return self.ff.added(x + gate * self.attn(modulated(x, shift, scale)), feed)


class SD3ControlNetModel(nn.Module):
    """What SD3 is told about an image of the condition, to be passed as `control`; that of several
    ControlNets is added with +."""

    config_class = SD3ControlNetConfig
    class_name = SD3ControlNetConfig.class_name

    def __init__(self, config: SD3ControlNetConfig) -> None:
        super().__init__()
        self.config, c, D, heads = config, config, config.dim, config.num_attention_heads
        learned = one_of("pos_embed_type", c.pos_embed_type, [None, "sincos"])
        grid = c.pos_embed_max_size if learned else None
        inp, patch = c.in_channels, c.patch_size
        self.pos_embed = PatchEmbed(inp, D, patch, grid) if c.use_pos_embed else None
        self.pos_embed_input = PatchEmbed(inp + c.extra_conditioning_channels, D, patch)
        self.time_text_embed = Condition(D, c.pooled_projection_dim)
        text = c.joint_attention_dim
        self.context_embedder = Linear(text, c.caption_projection_dim) if text else None
        self.transformer_blocks = nn.ModuleList(
            JointBlock(D, heads, qk_norm=c.normed, dual=i in c.dual_attention_layers)
            if self.context_embedder
            else ImageBlock(D, heads)
            for i in range(c.num_layers)
        )
        self.controlnet_blocks = nn.ModuleList(Linear(D, D) for _ in range(c.num_layers))

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        text: Tensor | None,
        pooled: Tensor,
        hint: Tensor,
        *,
        scale: float = 1.0,
    ) -> Residuals:
        """x, time, text and pooled as SD3 is given them (text None where it is not read); x is
        SD3's `embed(x)` where this network has no embedding of its own. hint (B, in_channels +
        extra_conditioning_channels, H, W): the encoded condition, and a mask beside it."""
        pooled = (
            torch.zeros_like(pooled) if self.config.force_zeros_for_pooled_projection else pooled
        )
        h = self.embed(x) + self.pos_embed_input(hint.to(x.dtype))
        condition, out = self.time_text_embed(h, time, pooled), []
        words = self.context_embedder(text_of(text).to(x.dtype)) if self.context_embedder else None
        for block, zero in zip(self.transformer_blocks, self.controlnet_blocks, strict=True):
            if words is None:
                h = block(h, condition)
            else:
                h, words = block(h, words, condition)
            out.append(zero(h) * scale)
        return Residuals(tuple(out), places="even")

    def embed(self, x: Tensor) -> Tensor:
        if (x.dim() == 3) == self.config.use_pos_embed:
            if self.config.use_pos_embed:
                wanted = "latents (B, C, H, W)"
            else:
                wanted = "tokens, SD3's embed(latents)"
            raise DaedalError(
                f"this ControlNet reads {wanted}, and was given {tuple(x.shape)}; pass those."
            )
        if self.pos_embed is None:
            return x
        return placed(self.pos_embed, x) if self.config.pos_embed_type else self.pos_embed(x)


def text_of(text: Tensor | None) -> Tensor:
    if text is None:
        raise DaedalError("this ControlNet reads the text, which was not given; pass it.")
    return text


@dataclass(frozen=True, kw_only=True)
class FluxControlNetConfig(FluxConfig):
    """`num_mode`: one network for so many kinds of condition. `conditioning_embedding_channels`: it
    is given pictures (XLabs), not latents, and packs what it makes of them in patches of
    `patch_size`."""

    patch_size: int = 1
    num_mode: int | None = None
    conditioning_embedding_channels: int | None = None

    class_name: ClassVar[str] = "FluxControlNetModel"
    fixed: ClassVar[dict[str, Any]] = {}
    absent: ClassVar[frozenset[str]] = frozenset({"out_channels"})


class FluxControlNetModel(FluxTrunk):
    """What FLUX is told about an image of the condition, to be passed as `control`; that of several
    ControlNets is added with +."""

    config_class = FluxControlNetConfig
    class_name = FluxControlNetConfig.class_name

    def __init__(self, config: FluxControlNetConfig) -> None:
        super().__init__(config)
        D, pictures = config.dim, config.conditioning_embedding_channels
        self.patch = config.patch_size
        self.controlnet_blocks = nn.ModuleList(Linear(D, D) for _ in range(config.num_layers))
        self.controlnet_single_blocks = nn.ModuleList(
            Linear(D, D) for _ in range(config.num_single_layers)
        )
        self.controlnet_mode_embedder = Embedding(config.num_mode, D) if config.num_mode else None
        self.input_hint_block = HintEmbedding(3, (16, 16, 16, 16), pictures) if pictures else None
        self.controlnet_x_embedder = Linear(config.in_channels, D)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        text: Tensor,
        pooled: Tensor,
        ids: Tensor,
        hint: Tensor,
        *,
        guidance: Tensor | None = None,
        mode: Tensor | None = None,
        scale: float = 1.0,
    ) -> Residuals:
        """x, time, text, pooled, ids and guidance as FLUX is given them. hint (B, N, in_channels):
        the encoded and packed condition, or a picture (B, 3, 8H, 8W). mode (B,) int64: which kind
        of condition it is, for networks of several."""
        condition = self.time_text_embed(x, time, pooled, guidance)
        h = self.x_embedder(x) + self.controlnet_x_embedder(self.hint_tokens(hint.to(x.dtype)))
        words = self.words(text.to(x.dtype), mode)
        turns, double, single = self.turns(words, ids), [], []
        for block, zero in zip(self.transformer_blocks, self.controlnet_blocks, strict=True):
            h, words = block(h, words, condition, turns)
            double.append(zero(h) * scale)
        h = torch.cat([words, h], 1)
        for block, zero in zip(
            self.single_transformer_blocks, self.controlnet_single_blocks, strict=True
        ):
            h = block(h, condition, turns)
            single.append(zero(h[:, words.shape[1] :]) * scale)
        return Residuals(
            tuple(double), tuple(single), "runs" if self.input_hint_block is None else "cycle"
        )

    def hint_tokens(self, hint: Tensor) -> Tensor:
        if self.input_hint_block is None:
            return hint
        return to_tokens(F.pixel_unshuffle(self.input_hint_block(hint), self.patch))

    def words(self, text: Tensor, mode: Tensor | None) -> Tensor:
        """The text's tokens, behind one that names the kind of condition."""
        words = self.context_embedder(text)
        if self.controlnet_mode_embedder is None:
            return words
        if mode is None:
            count = self.controlnet_mode_embedder.num_embeddings
            raise DaedalError(
                f"this ControlNet serves {count} kinds of condition, and mode was not given; pass which, from 0 to {count - 1}."
            )
        return torch.cat(
            [self.controlnet_mode_embedder(mode.expand(len(text)))[:, None].to(words.dtype), words],
            1,
        )
