"""What a U-Net's config.json says (networks.unet), and the same spread over its levels: block
types, heads, depths and widths of each."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from daedal.errors import DaedalError
from daedal.networks.config import one_of, per_level


@dataclass(frozen=True)
class Kind:
    """What a block type of the config files says: which attention, and whether convolutions or
    residual blocks resample."""

    attention: str | None  # None, "transformer" or "added"
    resnet_resampling: bool = False


KINDS = {
    "DownBlock2D": Kind(None), "UpBlock2D": Kind(None), "UNetMidBlock2D": Kind(None),
    "CrossAttnDownBlock2D": Kind("transformer"), "CrossAttnUpBlock2D": Kind("transformer"), "UNetMidBlock2DCrossAttn": Kind("transformer"),
    "ResnetDownsampleBlock2D": Kind(None, True), "ResnetUpsampleBlock2D": Kind(None, True),
    "SimpleCrossAttnDownBlock2D": Kind("added", True), "SimpleCrossAttnUpBlock2D": Kind("added", True),
    "UNetMidBlock2DSimpleCrossAttn": Kind("added", True),
    "DownBlockMotion": Kind(None), "UpBlockMotion": Kind(None),
    "CrossAttnDownBlockMotion": Kind("transformer"), "CrossAttnUpBlockMotion": Kind("transformer"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What the U-Net shares with the ControlNet. `attention_head_dim` is the *number* of heads in
    transformer levels (a misnomer that 40 000 files keep) and really the width of a head in IF's
    levels."""

    in_channels: int = 4
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    down_block_types: tuple[str, ...] = (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    )
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"
    only_cross_attention: bool | tuple[bool, ...] = False
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    downsample_padding: int = 1
    mid_block_scale_factor: float = 1
    act_fn: str = "silu"
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int | tuple[Any, ...] = 1280
    transformer_layers_per_block: int | tuple[int | tuple[int, ...], ...] = 1
    encoder_hid_dim: int | None = None
    encoder_hid_dim_type: str | None = None
    attention_head_dim: int | tuple[int, ...] = 8
    use_linear_projection: bool = False
    class_embed_type: str | None = None
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    num_class_embeds: int | None = None
    # kept for the file: attention here always sums its scores in float32
    upcast_attention: bool = False
    resnet_time_scale_shift: str = "default"
    projection_class_embeddings_input_dim: int | None = None
    addition_embed_type_num_heads: int = 64

    time_embedding_dim: int | None = None
    time_embedding_act_fn: str | None = None
    time_cond_proj_dim: int | None = None
    conv_in_kernel: int = 3
    mid_block_only_cross_attention: bool | None = None
    cross_attention_norm: str | None = None
    resnet_skip_time_act: bool = False
    resnet_out_scale_factor: float = 1.0

    fixed: ClassVar[dict[str, Any]] = {"num_attention_heads": None}

    @property
    def time_dim(self) -> int:
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def embedding_dim(self) -> int:
        """Of the time embedding and what stands beside it."""
        return self.time_dim


@dataclass(frozen=True, kw_only=True)
class UNet2DConditionConfig(EncoderConfig):
    sample_size: int | tuple[int, int] | None = None
    out_channels: int = 4
    up_block_types: tuple[str, ...] = (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    )
    reverse_transformer_layers_per_block: tuple[int | tuple[int, ...], ...] | None = None
    conv_out_kernel: int = 3
    class_embeddings_concat: bool = False  # beside the time embedding, not added to it (AudioLDM)

    class_name: ClassVar[str] = "UNet2DConditionModel"
    fixed: ClassVar[dict[str, Any]] = {
        "num_attention_heads": None, "center_input_sample": False, "dropout": 0.0, "dual_cross_attention": False, "attention_type": "default",
        "time_embedding_type": "positional", "timestep_post_act": None,
    }  # fmt: skip

    @property
    def embedding_dim(self) -> int:
        return self.time_dim * (1 + self.class_embeddings_concat)


ONLY_IMAGES = frozenset({
    "encoder_hid_dim", "encoder_hid_dim_type", "addition_embed_type", "addition_time_embed_dim", "addition_embed_type_num_heads",
    "mid_block_only_cross_attention", "cross_attention_norm", "resnet_skip_time_act", "resnet_out_scale_factor",
    "reverse_transformer_layers_per_block",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AudioLDM2UNetConfig(UNet2DConditionConfig):
    """Each level has several transformers after each residual block, as many as the level's
    `cross_attention_dim` has widths: None reads no text, the second the first text, others the
    second."""

    class_name: ClassVar[str] = "AudioLDM2UNet2DConditionModel"
    absent: ClassVar[frozenset[str]] = ONLY_IMAGES
    fixed: ClassVar[dict[str, Any]] = {
        "num_attention_heads": None, "time_embedding_type": "positional", "timestep_post_act": None,
    }  # fmt: skip


@dataclass(frozen=True)
class Level:
    """One resolution, everything a block there needs to know."""

    kind: Kind
    channels: int
    layers: int
    heads: int
    depths: tuple[int, ...]  # transformer blocks of each layer's attention
    texts: tuple[int | None, ...]  # what each of a layer's transformers reads: the text's width
    only_cross: bool

    @property
    def text_dim(self) -> int:
        return next(width for width in self.texts if width)


def levels(config: EncoderConfig) -> list[Level]:
    """The encoder's levels, finest first: every key that may be one value or one a level is spread
    here."""
    c, n = config, len(config.block_out_channels)
    if len(c.down_block_types) != n:
        raise DaedalError(
            f"down_block_types names {len(c.down_block_types)} blocks for {n} block_out_channels; give one a level."
        )
    layers = per_level("layers_per_block", c.layers_per_block, n)
    heads = per_level("attention_head_dim", c.attention_head_dim, n)
    depths = per_level("transformer_layers_per_block", c.transformer_layers_per_block, n)
    widths = per_level("cross_attention_dim", c.cross_attention_dim, n)
    only = per_level("only_cross_attention", c.only_cross_attention, n)
    kinds = [KINDS[one_of("down_block_types", name, list(KINDS))] for name in c.down_block_types]
    found = []
    for i, C in enumerate(c.block_out_channels):
        head, depth = head_count(kinds[i], C, heads[i]), spread(depths[i], layers[i])
        texts = widths[i] if isinstance(widths[i], tuple) else (widths[i],)
        found.append(Level(kinds[i], C, layers[i], head, depth, texts, only[i]))
    return found


def upward(config: UNet2DConditionConfig) -> list[Level]:
    """The decoder's levels, coarsest first; each has a layer more than its mirror image."""
    c, out = config, []
    mirrored, depths = levels(c)[::-1], c.reverse_transformer_layers_per_block
    for i, (level, name) in enumerate(zip(mirrored, c.up_block_types, strict=True)):
        kind, layers = KINDS[one_of("up_block_types", name, list(KINDS))], level.layers + 1
        head = per_level("attention_head_dim", c.attention_head_dim, len(mirrored))[::-1][i]
        depth = spread(depths[i] if depths else level.depths[0], layers)
        heads = head_count(kind, level.channels, head)
        out.append(replace(level, kind=kind, layers=layers, heads=heads, depths=depth))
    return out


def middle(config: EncoderConfig) -> Level | None:
    """The level below the last, or None. Its self-attention is dropped when `only_cross_attention`
    is one value and says so."""
    c = config
    if c.mid_block_type is None:
        return None
    kind = KINDS[one_of("mid_block_type", c.mid_block_type, list(KINDS))]
    last = levels(c)[-1]
    head = per_level("attention_head_dim", c.attention_head_dim, len(c.block_out_channels))[-1]
    only = c.mid_block_only_cross_attention
    only = only if only is not None else c.only_cross_attention is True
    heads = head_count(kind, last.channels, head)
    only = only and kind.attention == "added"
    return replace(last, kind=kind, layers=1, heads=heads, depths=last.depths[:1], only_cross=only)


def head_count(kind: Kind, channels: int, head: int) -> int:
    """The naming trap: `attention_head_dim` counts heads, but in IF's blocks it is their width."""
    heads = channels // head if kind.attention == "added" else head
    if kind.attention and channels % heads:
        raise DaedalError(
            f"attention_head_dim {head} gives {heads} heads, which do not divide {channels} channels; correct the config."
        )
    return heads


def spread(value: int | tuple[int, ...], layers: int) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,) * layers
