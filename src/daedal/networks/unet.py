"""The text-conditioned U-Net (Ronneberger et al. 2015, Ho et al. 2020, Rombach et al. 2022) of
Stable Diffusion 1, 2, XL and its refiner, of the x4 upscaler, and of DeepFloyd IF's pixel cascade
(after Saharia et al. 2022). Its blocks are in networks.unet_blocks.

Legend: B batch, C channels, H and W height and width, T text tokens, D text width, E width of the
time embedding."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any, Self

import torch
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.networks.config import one_of
from daedal.networks.unet_blocks import Context, DownBlock, Keys, MidBlock, Residuals, UpBlock
from daedal.networks.unet_config import (
    AudioLDM2UNetConfig,
    EncoderConfig,
    UNet2DConditionConfig,
    levels,
    middle,
    upward,
)
from daedal.nn.conv import Conv2d, GroupNorm, init_, multi_head
from daedal.nn.cost import count_flops
from daedal.nn.linear import Embedding, Linear
from daedal.nn.mlp import activation
from daedal.nn.norm import LayerNorm
from daedal.nn.timestep import TimestepEmbedding, sinusoidal


class TextPooling(nn.Module):
    """One vector of the whole text: attention whose query is the mean of the tokens (IF; after
    Radford et al. 2021)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.zeros(1, dim))
        self.k_proj, self.q_proj, self.v_proj = (Linear(dim, dim) for _ in range(3))

    def forward(self, text: Tensor) -> Tensor:  # (B, T, D) -> (B, D)
        query = text.mean(1, keepdim=True) + self.positional_embedding.to(text.dtype)
        text = torch.cat([query, text], 1)
        q, k, v = self.q_proj(query), self.k_proj(text), self.v_proj(text)
        return multi_head(q, k, v, self.heads)[:, 0]


class TextEmbedding(nn.Module):
    """norm(proj(pool(norm(text)))): what IF adds to the time embedding."""

    def __init__(self, dim: int, out: int, heads: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.pool = TextPooling(dim, heads)
        self.proj = Linear(dim, out)
        self.norm2 = LayerNorm(out)

    def forward(self, text: Tensor) -> Tensor:  # (B, T, D) -> (B, E)
        return self.norm2(self.proj(self.pool(self.norm1(text))))


def text_projection(c: EncoderConfig) -> Linear | None:
    """From the width of the text encoder to the width that attention reads, where they differ."""
    kind = c.encoder_hid_dim_type or ("text_proj" if c.encoder_hid_dim else None)
    if one_of("encoder_hid_dim_type", kind, [None, "text_proj"]) is None:
        return None
    return Linear(c.encoder_hid_dim or 0, text_width(c))


def class_embedding(c: EncoderConfig) -> nn.Module | None:
    """A class, a second noise level, or a vector as an addition to the time embedding."""
    kinds = [None, "timestep", "projection", "simple_projection"]
    one_of("class_embed_type", c.class_embed_type, kinds)
    if c.class_embed_type == "simple_projection":
        return Linear(c.projection_class_embeddings_input_dim or 0, c.time_dim)
    if c.class_embed_type == "timestep":
        return TimestepEmbedding(c.block_out_channels[0], c.time_dim, c.act_fn)
    if c.class_embed_type == "projection":
        return TimestepEmbedding(c.projection_class_embeddings_input_dim or 0, c.time_dim)
    return Embedding(c.num_class_embeds, c.time_dim) if c.num_class_embeds else None


def addition_embedding(c: EncoderConfig) -> nn.Module | None:
    """The pooled text (IF), or SDXL's pooled text with sizes and crops."""
    one_of("addition_embed_type", c.addition_embed_type, [None, "text", "text_time"])
    if c.addition_embed_type == "text":
        width = c.encoder_hid_dim or text_width(c)
        return TextEmbedding(width, c.time_dim, c.addition_embed_type_num_heads)
    if c.addition_embed_type:
        return TimestepEmbedding(c.projection_class_embeddings_input_dim or 0, c.time_dim)
    return None


def text_width(c: EncoderConfig) -> int:
    if isinstance(c.cross_attention_dim, int):
        return c.cross_attention_dim
    return c.cross_attention_dim[0]


def needed(name: str, value: Tensor | None, why: str) -> Tensor:
    if value is None:
        raise DaedalError(f"the U-Net's {why} needs {name}, which was not given; pass it.")
    return value


class UNetEncoder(nn.Module):
    """The half that U-Net and ControlNet share: the embedding of time and conditions, and the way
    down."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config: Any = config
        sizes, E = config.block_out_channels, config.time_dim
        kernel, act, last_act = config.conv_in_kernel, config.act_fn, config.time_embedding_act_fn
        self.conv_in = Conv2d(config.in_channels, sizes[0], kernel, padding=kernel // 2)
        self.time_embedding = TimestepEmbedding(sizes[0], E, act, config.time_cond_proj_dim)
        self.time_act = activation(last_act) if last_act else None
        self.encoder_hid_proj = text_projection(config)
        self.class_embedding = class_embedding(config)
        self.add_embedding = addition_embedding(config)
        rows = zip([sizes[0], *sizes], levels(config), strict=False)
        self.down_blocks = nn.ModuleList(
            DownBlock(config, level, inp, i == len(sizes) - 1)
            for i, (inp, level) in enumerate(rows)
        )

    def text_layers(self) -> list[Any]:
        """The attention layers that read the text, in the order of `text_keys` and of their index."""
        parts: list[Any] = [self.down_blocks, getattr(self, "up_blocks", None), self.mid_block]
        layers = (layer for part in parts if part is not None for layer in part.modules())
        return [layer for layer in layers if getattr(layer, "reads_text", False)]

    def number_text_layers(self) -> None:
        for index, layer in enumerate(self.text_layers()):
            layer.index = index

    def text_keys(self, text: Tensor) -> list[Keys]:
        """text (B, T, D) -> the keys and values of every layer that reads it. They depend on
        nothing else, so once a prompt is enough."""
        text = text if self.encoder_hid_proj is None else self.encoder_hid_proj(text)
        return [layer.keys(text) for layer in self.text_layers()]

    def context(
        self,
        x: Tensor,
        time: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None = None,
        added: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        guidance: Tensor | None = None,
        text_kv: Sequence[Keys] | None = None,
        frames: int = 1,
    ) -> Context:
        """Everything but the image, in the dtype of the image."""
        text = None if text is None else text.to(x.dtype)
        e = self.embed_time(x, time, guidance) + self.embed_added(x, text, added or {})
        label = self.embed_labels(x, labels)
        beside = getattr(self.config, "class_embeddings_concat", False)
        e = torch.cat([e, label], -1) if beside else e + label  # type: ignore[list-item]
        if text_kv is None and not beside:  # a sound's label is its text, and there is no other
            text_kv = self.text_keys(needed("text", text, "attention"))
        keys = text_kv or ()
        mask = None if text_mask is None else text_mask.bool()[:, None, None]
        return Context(e if self.time_act is None else self.time_act(e), keys, mask, frames)

    def sinusoids(self, values: Tensor, dim: int, like: Tensor) -> Tensor:  # (B,) -> (B, dim)
        c = self.config
        waves = sinusoidal(values, dim, cos_first=c.flip_sin_to_cos, shift=c.freq_shift)
        return waves.to(like.dtype)

    # (B,) -> (B, E)
    def embed_time(self, x: Tensor, time: Tensor, guidance: Tensor | None) -> Tensor:
        c, scale = self.config, None
        if c.time_cond_proj_dim:
            guidance = needed("guidance", guidance, "time_cond_proj_dim")
            values = (guidance - 1) * 1000
            scale = sinusoidal(values, c.time_cond_proj_dim, cos_first=False, shift=1).to(x.dtype)
        waves = self.sinusoids(time.expand(len(x)), c.block_out_channels[0], x)
        return self.time_embedding(waves, scale)

    def embed_labels(self, x: Tensor, labels: Tensor | None) -> Tensor | float:
        c = self.config
        if self.class_embedding is None:
            return 0.0
        labels = needed("labels", labels, f"class embedding ({c.class_embed_type or 'classes'})")
        if c.class_embed_type == "timestep":
            labels = self.sinusoids(labels.expand(len(x)), c.block_out_channels[0], x)
        labels = labels.to(x.dtype) if c.class_embed_type else labels.long()
        return self.class_embedding(labels).to(x.dtype)

    def embed_added(
        self, x: Tensor, text: Tensor | None, added: dict[str, Tensor]
    ) -> Tensor | float:
        c = self.config
        if self.add_embedding is None:
            return 0.0
        if c.addition_embed_type == "text":
            return self.add_embedding(needed("text", text, "addition_embed_type 'text'"))
        pooled, sizes = (
            needed(f"added[{key!r}]", added.get(key), "addition_embed_type 'text_time'")
            for key in ("text_embeds", "time_ids")
        )
        sizes = self.sinusoids(sizes.flatten(), c.addition_time_embed_dim, x).view(len(sizes), -1)
        return self.add_embedding(torch.cat([pooled.to(x.dtype), sizes], -1))

    def down(
        self, x: Tensor, context: Context, features: Sequence[Tensor] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """x behind conv_in -> what leaves the last level, and all skips, x first."""
        skips = [x]
        for block, feature in zip_longest(self.down_blocks, features[: len(self.down_blocks)]):
            x, more = block(x, context, feature)
            skips += more
        return x, skips


class UNet2DConditionModel(UNetEncoder):
    """Noisy images or latents, a noise level and a text -> the prediction that the model's
    parametrisation names."""

    config_class = UNet2DConditionConfig
    class_name = UNet2DConditionConfig.class_name

    def __init__(self, config: UNet2DConditionConfig) -> None:
        super().__init__(config)
        sizes, mid = config.block_out_channels, middle(config)
        self.mid_block = None if mid is None else MidBlock(config, mid)
        skips = [sizes[0]]
        for level in levels(config):
            skips += [level.channels] * (level.layers + 1)
        skips.pop()  # the last level is not halved
        self.up_blocks, inp = nn.ModuleList(), sizes[-1]
        for i, level in enumerate(upward(config)):
            joined = [skips.pop() for _ in range(level.layers)]
            self.up_blocks.append(UpBlock(config, level, inp, joined, i == len(sizes) - 1))
            inp = level.channels
        self.conv_norm_out = GroupNorm(config.norm_num_groups, sizes[0], config.norm_eps)
        self.act = activation(config.act_fn)
        kernel = config.conv_out_kernel
        self.conv_out = Conv2d(sizes[0], config.out_channels, kernel, padding=kernel // 2)
        self.number_text_layers()

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        text: Tensor | None = None,
        *,
        control: Residuals | None = None,
        features: Sequence[Tensor] = (),
        **conditions: Any,
    ) -> Tensor:
        """x (B, in_channels, H, W), time (B,) or (1,), text (B, T, D) -> (B, out_channels, H, W).

        control: a ControlNet's residuals; features: a T2I-Adapter's. `conditions`, see `context`:
        text_mask (B, T), True where a token exists; text_kv = text_keys(text), in place of text;
        added: "text_embeds" (B, D') and "time_ids" (B, 5 or 6) of SDXL; labels (B,): classes, or
        the noise level of IF's upscalers; guidance (B,): the scale that a guidance-distilled (LCM)
        network is told; frames: of each clip, whose frames are neighbours in the batch."""
        context = self.context(x, time, text, **conditions)
        x, skips = self.down(self.conv_in(x), context, features)
        if control is not None:
            skips = [skip + residual for skip, residual in zip(skips, control.down, strict=True)]
        x = x if self.mid_block is None else self.mid_block(x, context)
        x = x + features[-1] if len(features) > len(self.down_blocks) else x
        x = x if control is None else x + control.mid
        for block in self.up_blocks:
            x = block(x, context, skips)
        return self.conv_out(self.act(self.conv_norm_out(x)))

    def init_weights(self, seed: int = 0) -> Self:
        """Weights for training from scratch; layers that write to a residual stream start at zero."""
        return init_(self, seed, zero=("conv2", "proj_out", "conv_out"))

    def flops(self, height: int, width: int, text_tokens: int = 77) -> int:
        """Floating-point operations of one call on one latent (or image, in pixel models) of that
        size; a multiply-add is two."""
        c = self.config
        sizes = 6 * (c.addition_time_embed_dim or 0)
        pooled = (c.projection_class_embeddings_input_dim or 0) - sizes

        def call(unet: Any) -> None:
            text = torch.empty(1, text_tokens, c.encoder_hid_dim or text_width(c))
            added = {"text_embeds": torch.empty(1, max(pooled, 0)), "time_ids": torch.empty(1, 6)}
            projected = c.class_embed_type == "projection"
            labels = torch.empty(1, *[c.projection_class_embeddings_input_dim] * projected)
            x, time = torch.empty(1, c.in_channels, height, width), torch.empty(1)
            unet(x, time, text, added=added, labels=labels, guidance=torch.empty(1))

        return count_flops(self, call)


class AudioLDM2UNet2DConditionModel(UNet2DConditionModel):
    """The same on the latents of a spectrogram, told two texts (Liu et al. 2023, AudioLDM 2)."""

    config_class = AudioLDM2UNetConfig
    class_name = AudioLDM2UNetConfig.class_name

    def keys_of(self, first: Tensor, second: Tensor, there: Tensor) -> list[Keys]:
        """The keys of every layer for two texts (B, T, D) and (B, S, E), of which `there` (B, S)
        says what exists of the second."""
        mask = there.bool()[:, None, None]
        return [
            replace(layer.keys(second), mask=mask) if layer.text else layer.keys(first)
            for layer in self.text_layers()
        ]
