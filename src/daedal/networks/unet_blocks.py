"""What U-Nets are made of (networks.unet): blocks of one level each, and the two kinds of attention
in them: a transformer with self- and cross-attention (Stable Diffusion; Rombach et al. 2022), and
one attention over text and pixels side by side (DeepFloyd IF).

Parameter names are those of diffusers' files. Legend: B batch, C channels, H and W height and
width, T text tokens, D text width, E width of the time embedding."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.networks.config import one_of
from daedal.networks.unet_config import EncoderConfig, Level
from daedal.nn.conv import (
    Conv2d,
    Downsample,
    GroupNorm,
    Resample,
    ResnetBlock,
    Upsample,
    multi_head,
    to_image,
    to_tokens,
)
from daedal.nn.linear import Linear, linears
from daedal.nn.norm import LayerNorm


@dataclass(frozen=True)
class Keys:
    """What one attention layer needs of the prompt: keys and values (B, T, C), and those of image
    prompts (IP-Adapter), which are attended apart from the text and weighed; and which of the keys
    exist (B, 1, 1, T), where that is not what the context says for all."""

    k: Tensor
    v: Tensor
    images: tuple[tuple[Tensor, Tensor, float], ...] = ()
    mask: Tensor | None = None


@dataclass(frozen=True)
class Residuals:
    """What side networks (ControlNet) add to the skips, in order, and to the middle. Several are
    summed with +."""

    down: tuple[Tensor, ...]
    mid: Tensor

    def __add__(self, other: "Residuals") -> "Residuals":
        return Residuals(
            tuple(a + b for a, b in zip(self.down, other.down, strict=True)), self.mid + other.mid
        )


@dataclass(frozen=True)
class Context:
    """What one call hands to every block: the time embedding (B, E), the keys of each text-reading
    layer by its index (none where no text is told, and the layers read the pixels), which text
    tokens exist (B, 1, 1, T), and of clips how many frames they have."""

    time: Tensor
    keys: Sequence[Keys]
    mask: Tensor | None = None
    frames: int = 1  # of each clip, whose frames are neighbours in the batch


class GEGLU(nn.Module):
    """a * gelu(b), (a, b) = proj(x) (Shazeer 2020)."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(dim, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, 4C)
        x, gate = self.proj(x).chunk(2, -1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        # the middle one was a dropout
        self.net = nn.ModuleList([GEGLU(dim, 4 * dim), nn.Identity(), Linear(4 * dim, dim)])

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        return self.net[2](self.net[0](x))


class Attention(nn.Module):
    """Multi-head attention of pixels (B, H*W, C) over themselves, or over the text when it has a
    width."""

    def __init__(self, dim: int, heads: int, text_dim: int | None = None) -> None:
        super().__init__()
        self.heads, self.reads_text, self.index = heads, text_dim is not None, 0
        self.text = 0  # which of several texts it reads
        self.to_q = Linear(dim, dim, bias=False)
        self.to_k = Linear(text_dim or dim, dim, bias=False)
        self.to_v = Linear(text_dim or dim, dim, bias=False)
        self.to_out = nn.ModuleList([Linear(dim, dim)])

    def keys(self, text: Tensor) -> Keys:  # (B, T, D)
        k, v = linears(text, self.to_k, self.to_v)
        return Keys(k, v)

    def forward(self, x: Tensor, context: Context) -> Tensor:  # (B, H*W, C) -> (B, H*W, C)
        if not self.reads_text or not context.keys:
            q, k, v = linears(x, self.to_q, self.to_k, self.to_v)
            return self.to_out[0](multi_head(q, k, v, self.heads))
        q, keys = self.to_q(x), context.keys[self.index]
        mask = context.mask if keys.mask is None else keys.mask
        out = multi_head(q, keys.k, keys.v, self.heads, mask)
        for k, v, scale in keys.images:
            out = out + scale * multi_head(q, k, v, self.heads)
        return self.to_out[0](out)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward, each behind a layer norm and added to the
    stream. With `only_cross` the first attention reads the text too; without a text's width the
    second reads the pixels too. `text` is which of several texts they read."""

    def __init__(
        self, dim: int, heads: int, text_dim: int | None, only_cross: bool, text: int = 0
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn1 = Attention(dim, heads, text_dim if only_cross else None)
        self.norm2, self.attn2 = LayerNorm(dim), Attention(dim, heads, text_dim)
        self.attn1.text = self.attn2.text = text
        self.norm3, self.ff = LayerNorm(dim), FeedForward(dim)

    def forward(self, x: Tensor, context: Context) -> Tensor:  # (B, H*W, C) -> (B, H*W, C)
        x = x + self.attn1(self.norm1(x), context)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a level, between two projections (Rombach et al. 2022,
    appendix E.2.1)."""

    def __init__(self, config: EncoderConfig, level: Level, layer: int, at: int = 0) -> None:
        super().__init__()
        C = level.channels
        self.norm = GroupNorm(config.norm_num_groups, C, 1e-6)
        projection = Linear if config.use_linear_projection else partial(Conv2d, kernel_size=1)
        self.proj_in = projection(C, C)
        read = (level.texts[at], level.only_cross, int(at > 1))
        block = partial(TransformerBlock, C, level.heads, *read)
        self.transformer_blocks = nn.ModuleList(block() for _ in range(level.depths[layer]))
        self.proj_out = projection(C, C)

    def forward(self, x: Tensor, context: Context) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        h = self.norm(x)
        if isinstance(self.proj_in, Linear):
            h = self.proj_in(to_tokens(h))
        else:
            h = to_tokens(self.proj_in(h))
        for block in self.transformer_blocks:
            h = block(h, context)
        return x + (
            to_image(self.proj_out(h), x)
            if isinstance(self.proj_out, Linear)
            else self.proj_out(to_image(h, x))
        )


class AddedAttention(nn.Module):
    """IF's attention: queries from the pixels, keys and values from the text and (unless
    `only_cross`) the pixels side by side."""

    def __init__(self, config: EncoderConfig, level: Level) -> None:
        super().__init__()
        C, D, groups = level.channels, level.text_dim, config.norm_num_groups
        self.heads, self.reads_text, self.index = level.heads, True, 0
        self.group_norm = GroupNorm(groups, C, 1e-5)
        one_of("cross_attention_norm", config.cross_attention_norm, [None, "group_norm"])
        self.norm_cross = GroupNorm(32, D, 1e-5) if config.cross_attention_norm else None
        self.to_q = Linear(C, C)
        self.to_k = None if level.only_cross else Linear(C, C)
        self.to_v = None if level.only_cross else Linear(C, C)
        self.add_k_proj, self.add_v_proj = Linear(D, C), Linear(D, C)
        self.to_out = nn.ModuleList([Linear(C, C)])

    def keys(self, text: Tensor) -> Keys:  # (B, T, D)
        text = text if self.norm_cross is None else self.norm_cross(text.mT).mT
        k, v = linears(text, self.add_k_proj, self.add_v_proj)
        return Keys(k, v)

    def forward(self, x: Tensor, context: Context) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        h, keys, mask = to_tokens(self.group_norm(x)), context.keys[self.index], context.mask
        k, v = keys.k, keys.v
        if self.to_k is not None and self.to_v is not None:
            k, v = torch.cat([k, self.to_k(h)], 1), torch.cat([v, self.to_v(h)], 1)
            mask = None if mask is None else F.pad(mask, (0, h.shape[1]), value=True)
        return x + to_image(self.to_out[0](multi_head(self.to_q(h), k, v, self.heads, mask)), x)


class Blocks(nn.Module):
    """The residual blocks of one level, the attention after each, and of networks of clips the motion
    module after that (networks.motion)."""

    def __init__(
        self, config: EncoderConfig, level: Level, inputs: Sequence[int], scale: float
    ) -> None:
        super().__init__()
        self.kind = level.kind
        attend = level.layers if level.kind.attention else 0
        self.each = len(level.texts)  # attentions after a residual block
        self.attentions = nn.ModuleList(
            attention(config, level, i, at) for i in range(attend) for at in range(self.each)
        )
        self.resnets = nn.ModuleList(resnet(config, level, inp, scale) for inp in inputs)
        self.motion_modules: nn.ModuleList | None = None

    def layer(self, i: int, x: Tensor, context: Context) -> Tensor:
        """Residual block i and what follows it."""
        x = self.resnets[i](x, context.time)
        for at in range(i * self.each, min((i + 1) * self.each, len(self.attentions))):
            x = self.attentions[at](x, context)
        if self.motion_modules is not None and i < len(self.motion_modules):
            x = self.motion_modules[i](x, context.frames)
        return x


def attention(config: EncoderConfig, level: Level, layer: int, at: int) -> nn.Module:
    if level.kind.attention == "added":
        return AddedAttention(config, level)
    return SpatialTransformer(config, level, layer, at)


def resnet(
    config: EncoderConfig, level: Level, inp: int, scale: float, resample: Resample | None = None
) -> ResnetBlock:
    """A residual block as this config wants it."""
    c, own = config, level.kind.resnet_resampling
    one_of("resnet_time_scale_shift", c.resnet_time_scale_shift, ["default", "scale_shift"])
    return ResnetBlock(
        inp, level.channels, groups=c.norm_num_groups, eps=c.norm_eps, act=c.act_fn, time_dim=c.embedding_dim, scale=scale, resample=resample,
        scale_shift=c.resnet_time_scale_shift == "scale_shift", time_act=not (c.resnet_skip_time_act and own),
    )  # fmt: skip


class DownBlock(Blocks):
    """One level of the encoder. The state after every layer, and after the downsampling, is kept as
    a skip."""

    def __init__(self, config: EncoderConfig, level: Level, inp: int, last: bool) -> None:
        C, own = level.channels, level.kind.resnet_resampling
        scale = config.resnet_out_scale_factor if own else 1.0
        super().__init__(config, level, [inp] + [C] * (level.layers - 1), scale)
        self.downsamplers = nn.ModuleList()
        if not last:
            self.downsamplers.append(
                resnet(config, level, C, scale, "down")
                if own
                else Downsample(C, config.downsample_padding)
            )

    def forward(
        self, x: Tensor, context: Context, feature: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """(B, C, H, W) -> (B, C', H/2, W/2) and the skips. `feature` of a T2I-Adapter is added to
        the last layer's output where the level has attention, and to the level's output where it
        has none."""
        skips = []
        for i in range(len(self.resnets)):
            x = self.layer(i, x, context)
            skips.append(x)
        if feature is not None and self.kind.attention:
            x = skips[-1] = x + feature
        for downsample in self.downsamplers:
            x = downsample(x, context.time)
            skips.append(x)
        if feature is not None and not self.kind.attention:
            x = skips[-1] = x + feature
        return x, skips


class MidBlock(Blocks):
    """Residual block, and attention and another residual block where the middle has attention."""

    def __init__(self, config: EncoderConfig, level: Level) -> None:
        super().__init__(
            config,
            level,
            [level.channels] * (2 if level.kind.attention else 1),
            config.mid_block_scale_factor,
        )

    def forward(self, x: Tensor, context: Context) -> Tensor:  # (B, C, H, W) -> (B, C, H, W)
        for i in range(len(self.resnets)):
            x = self.layer(i, x, context)
        return x


class UpBlock(Blocks):
    """One level of the decoder; every layer reads a skip."""

    def __init__(
        self, config: EncoderConfig, level: Level, inp: int, skips: Sequence[int], last: bool
    ) -> None:
        C, own = level.channels, level.kind.resnet_resampling
        scale = config.resnet_out_scale_factor if own else 1.0
        super().__init__(
            config,
            level,
            [a + b for a, b in zip([inp] + [C] * level.layers, skips, strict=False)],
            scale,
        )
        self.upsamplers = nn.ModuleList(
            [] if last else [resnet(config, level, C, scale, "up") if own else Upsample(C)]
        )

    def forward(self, x: Tensor, context: Context, skips: list[Tensor]) -> Tensor:
        """(B, C, H, W) -> (B, C', 2H, 2W), or the size of the next skip; takes its skips from the
        end of the list."""
        for i in range(len(self.resnets)):
            x = self.layer(i, torch.cat([x, skips.pop()], 1), context)
        for upsample in self.upsamplers:
            x = upsample(x, context.time, skips[-1].shape[2:])
        return x
