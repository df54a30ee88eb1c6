"""AnimateDiff (Guo et al. 2023): motion modules between the layers of a U-Net of pictures, in which
each place attends to itself at the other times. A folder holds the modules alone (`MotionAdapter`) or
a U-Net with them (`UNetMotionModel`).

Parameter names are those of diffusers' files. Legend: B clips, F frames, C channels, H and W rows and
columns."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.networks.config import per_level
from daedal.networks.unet import UNet2DConditionModel
from daedal.networks.unet_blocks import FeedForward
from daedal.networks.unet_config import UNet2DConditionConfig, spread
from daedal.nn.conv import GroupNorm
from daedal.nn.dit import SelfAttention
from daedal.nn.linear import Linear
from daedal.nn.norm import LayerNorm


@dataclass(frozen=True, kw_only=True)
class MotionAdapterConfig:
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    motion_layers_per_block: int | tuple[int, ...] = 2
    motion_transformer_layers_per_block: int | tuple[int | tuple[int, ...], ...] = 1
    motion_mid_block_layers_per_block: int = 1
    motion_transformer_layers_per_mid_block: int | tuple[int, ...] = 1
    motion_num_attention_heads: int | tuple[int, ...] = 8
    motion_norm_num_groups: int = 32
    motion_max_seq_length: int = 32
    use_motion_mid_block: bool = True

    class_name: ClassVar[str] = "MotionAdapter"
    fixed: ClassVar[dict[str, Any]] = {"conv_in_channels": None}


class Places(nn.Module):
    """What says which frame it is; the file has it."""

    pe: Tensor

    def __init__(self, dim: int, most: int) -> None:
        super().__init__()
        self.register_buffer("pe", torch.empty(1, most, dim))

    def forward(self, x: Tensor) -> Tensor:  # (..., F, C)
        if x.shape[1] > (most := self.pe.shape[1]):
            raise DaedalError(
                f"{x.shape[1]} frames are more than the {most} that these motion modules move; ask for fewer seconds."
            )
        return x + self.pe[:, : x.shape[1]].to(x.dtype)


class MotionBlock(nn.Module):
    """Two attentions over the frames and a feed-forward."""

    def __init__(self, dim: int, heads: int, most: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (LayerNorm(dim) for _ in range(3))
        self.attn1, self.attn2 = (SelfAttention(dim, heads, bias=False) for _ in range(2))
        self.ff, self.pos_embed = FeedForward(dim), Places(dim, most)

    def forward(self, x: Tensor) -> Tensor:  # (B H W, F, C)
        x = x + self.attn1(self.pos_embed(self.norm1(x)))
        x = x + self.attn2(self.pos_embed(self.norm2(x)))
        return x + self.ff(self.norm3(x))


class MotionModule(nn.Module):
    def __init__(self, dim: int, heads: int, depth: int, c: MotionAdapterConfig) -> None:
        super().__init__()
        self.norm = GroupNorm(c.motion_norm_num_groups, dim, 1e-6)
        self.proj_in, self.proj_out = Linear(dim, dim), Linear(dim, dim)
        most = c.motion_max_seq_length
        self.transformer_blocks = nn.ModuleList(MotionBlock(dim, heads, most) for _ in range(depth))

    def forward(self, x: Tensor, frames: int) -> Tensor:  # (B F, C, H, W)
        clips = x.unflatten(0, (-1, frames)).transpose(1, 2)  # (B, C, F, H, W)
        places = self.norm(clips).permute(0, 3, 4, 2, 1)  # (B, H, W, F, C)
        h = self.proj_in(places.flatten(0, 2))
        for block in self.transformer_blocks:
            h = block(h)
        h = self.proj_out(h).view(places.shape).permute(0, 3, 4, 1, 2).flatten(0, 1)
        return x + h


class Level(nn.Module):
    """The motion modules of one level of a U-Net."""

    def __init__(
        self, dim: int, heads: int, depths: tuple[int, ...], c: MotionAdapterConfig
    ) -> None:
        super().__init__()
        self.motion_modules = nn.ModuleList(MotionModule(dim, heads, d, c) for d in depths)


class MotionAdapter(nn.Module):
    """Motion modules of all levels, to be put into a U-Net (`moved`)."""

    config_class = MotionAdapterConfig
    class_name = MotionAdapterConfig.class_name

    def __init__(self, config: MotionAdapterConfig) -> None:
        super().__init__()
        self.config, sizes, n = config, config.block_out_channels, len(config.block_out_channels)
        layers = per_level("motion_layers_per_block", config.motion_layers_per_block, n)
        heads = per_level("motion_num_attention_heads", config.motion_num_attention_heads, n)
        key = "motion_transformer_layers_per_block"
        depths = per_level(key, config.motion_transformer_layers_per_block, n)
        rows = list(zip(sizes, heads, depths, layers, strict=True))
        self.down_blocks = nn.ModuleList(
            Level(dim, head, spread(depth, count), config) for dim, head, depth, count in rows
        )
        self.up_blocks = nn.ModuleList(
            Level(dim, head, spread(depth, count + 1), config)
            for dim, head, depth, count in rows[::-1]
        )
        middle, count = (
            config.motion_transformer_layers_per_mid_block,
            config.motion_mid_block_layers_per_block,
        )
        self.mid_block = None
        if config.use_motion_mid_block:
            self.mid_block = Level(sizes[-1], heads[-1], spread(middle, count), config)


def moved(unet: Any, adapter: Any) -> Any:
    """The U-Net with an adapter's motion modules in it."""
    mine, wanted = adapter.config.block_out_channels, unet.config.block_out_channels
    if mine != wanted:
        raise DaedalError(
            f"the motion modules are of a U-Net with block_out_channels {mine}, this one has {wanted}; take those made for it."
        )
    blocks = [*unet.down_blocks, *unet.up_blocks, unet.mid_block]
    levels = [*adapter.down_blocks, *adapter.up_blocks, adapter.mid_block]
    for block, level in zip(blocks, levels, strict=True):
        block.motion_modules = None if level is None else level.motion_modules
    return unet


@dataclass(frozen=True, kw_only=True)
class UNetMotionConfig(UNet2DConditionConfig):
    down_block_types: tuple[str, ...] = (*["CrossAttnDownBlockMotion"] * 3, "DownBlockMotion")
    up_block_types: tuple[str, ...] = ("UpBlockMotion", *["CrossAttnUpBlockMotion"] * 3)
    temporal_transformer_layers_per_block: int | tuple[int | tuple[int, ...], ...] = 1
    motion_max_seq_length: int = 32
    motion_num_attention_heads: int | tuple[int, ...] = 8
    use_motion_mid_block: bool = True

    class_name: ClassVar[str] = "UNetMotionModel"
    aliases: ClassVar[dict[str, str]] = {"num_attention_heads": "attention_head_dim"}
    fixed: ClassVar[dict[str, Any]] = {
        "reverse_temporal_transformer_layers_per_block": None, "transformer_layers_per_mid_block": None,
        "temporal_transformer_layers_per_mid_block": 1, "reverse_motion_num_attention_heads": None, "mid_block_layers": 1,
    }  # fmt: skip
    absent: ClassVar[frozenset[str]] = frozenset({
        "flip_sin_to_cos", "freq_shift", "mid_block_type", "only_cross_attention", "class_embed_type", "num_class_embeds",
        "upcast_attention", "resnet_time_scale_shift", "addition_embed_type_num_heads", "time_embedding_dim", "time_embedding_act_fn",
        "conv_in_kernel", "conv_out_kernel", "mid_block_only_cross_attention", "cross_attention_norm", "resnet_skip_time_act",
        "resnet_out_scale_factor",
    })  # fmt: skip

    @property
    def adapter(self) -> MotionAdapterConfig:
        return MotionAdapterConfig(
            block_out_channels=self.block_out_channels,
            motion_layers_per_block=self.layers_per_block,
            motion_transformer_layers_per_block=self.temporal_transformer_layers_per_block,
            motion_num_attention_heads=self.motion_num_attention_heads,
            motion_norm_num_groups=self.norm_num_groups,
            motion_max_seq_length=self.motion_max_seq_length,
            use_motion_mid_block=self.use_motion_mid_block,
        )


class UNetMotionModel(UNet2DConditionModel):
    """A U-Net with motion modules."""

    config_class = UNetMotionConfig  # type: ignore[assignment]
    class_name = UNetMotionConfig.class_name

    def __init__(self, config: UNetMotionConfig) -> None:
        super().__init__(config)
        moved(self, MotionAdapter(config.adapter))
