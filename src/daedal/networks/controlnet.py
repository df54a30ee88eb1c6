"""ControlNet (Zhang et al. 2023): a copy of a U-Net's way down that reads an image of edges, depth,
a pose, ... and tells the U-Net's skips what to add, through convolutions that start at zero. For
Stable Diffusion 1, 2 and XL.

Parameter names are those of diffusers' files. Legend: B batch, C channels, h and w latent cells."""

import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.networks.config import one_of
from daedal.networks.unet import UNet2DConditionModel, UNetEncoder
from daedal.networks.unet_blocks import MidBlock, Residuals
from daedal.networks.unet_config import EncoderConfig, levels, middle
from daedal.nn.conv import Conv2d, init_

ZERO_CONVS = (
    "controlnet_down_blocks.",
    "controlnet_mid_block.",
    "controlnet_cond_embedding.conv_out.",
)


@dataclass(frozen=True, kw_only=True)
class ControlNetConfig(EncoderConfig):
    conditioning_channels: int = 3
    controlnet_conditioning_channel_order: str = "rgb"
    conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256)
    global_pool_conditions: bool = False

    class_name: ClassVar[str] = "ControlNetModel"
    absent: ClassVar[frozenset[str]] = frozenset(
        {
            "time_embedding_dim", "time_embedding_act_fn", "time_cond_proj_dim", "conv_in_kernel", "mid_block_only_cross_attention",
            "cross_attention_norm", "resnet_skip_time_act", "resnet_out_scale_factor",
        }
    )  # fmt: skip


class HintEmbedding(nn.Module):
    """An image of the condition (B, 3, 8h, 8w) -> (B, C, h, w), what is added behind the U-Net's
    first convolution."""

    def __init__(self, inp: int, sizes: tuple[int, ...], out: int) -> None:
        super().__init__()
        self.conv_in = Conv2d(inp, sizes[0], 3, padding=1)
        pairs = [
            (Conv2d(a, a, 3, padding=1), Conv2d(a, b, 3, padding=1, stride=2))
            for a, b in pairwise(sizes)
        ]
        self.blocks = nn.ModuleList(conv for pair in pairs for conv in pair)
        self.conv_out = Conv2d(sizes[-1], out, 3, padding=1)

    def forward(self, hint: Tensor) -> Tensor:
        for conv in (self.conv_in, *self.blocks):
            hint = F.silu(conv(hint))
        return self.conv_out(hint)


class ControlNetModel(UNetEncoder):
    """What a U-Net is told about an image of the condition: what it takes as `control`, that of
    several ControlNets added with +."""

    config_class = ControlNetConfig
    class_name = ControlNetConfig.class_name

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__(config)
        sizes, mid = config.block_out_channels, middle(config)
        self.mid_block = None if mid is None else MidBlock(config, mid)
        self.controlnet_cond_embedding = HintEmbedding(
            config.conditioning_channels, config.conditioning_embedding_out_channels, sizes[0]
        )
        skips = [
            sizes[0],
            *(C for level in levels(config) for C in [level.channels] * (level.layers + 1)),
        ][:-1]
        self.controlnet_down_blocks = nn.ModuleList(Conv2d(C, C, 1) for C in skips)
        self.controlnet_mid_block = Conv2d(sizes[-1], sizes[-1], 1)
        one_of(
            "controlnet_conditioning_channel_order",
            config.controlnet_conditioning_channel_order,
            ["rgb", "bgr"],
        )
        self.number_text_layers()

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        text: Tensor | None,
        hint: Tensor,
        *,
        scale: float = 1.0,
        guess: bool = False,
        **conditions: Any,
    ) -> Residuals:
        """x, time, text and `conditions` as the U-Net is given them; hint (B,
        conditioning_channels, 8h, 8w) in [0, 1]. `scale` weighs all residuals; `guess` weighs the
        finest by 0.1 and the coarsest by 1, for prompts left empty."""
        context = self.context(x, time, text, **conditions)
        hint = (
            hint.flip(1) if self.config.controlnet_conditioning_channel_order == "bgr" else hint
        ).to(x.dtype)
        x, skips = self.down(self.conv_in(x) + self.controlnet_cond_embedding(hint), context)
        x = x if self.mid_block is None else self.mid_block(x, context)
        down = [conv(skip) for conv, skip in zip(self.controlnet_down_blocks, skips, strict=True)]
        return self.weighed([*down, self.controlnet_mid_block(x)], scale, guess)

    def weighed(self, residuals: list[Tensor], scale: float, guess: bool) -> Residuals:
        pooled = self.config.global_pool_conditions
        if guess and not pooled:
            weights = torch.logspace(-1, 0, len(residuals), device="cpu").tolist()
        else:
            weights = [1.0] * len(residuals)
        residuals = [r * (scale * w) for r, w in zip(residuals, weights, strict=True)]
        residuals = [r.mean((2, 3), keepdim=True) for r in residuals] if pooled else residuals
        return Residuals(tuple(residuals[:-1]), residuals[-1])

    def init_weights(self, seed: int = 0) -> Self:
        """Weights for training from scratch: the zero convolutions make the control nothing at
        first."""
        return init_(self, seed, zero=("conv2", "proj_out", *self._zero_layers()))

    def _zero_layers(self) -> list[str]:
        return [name for name, _ in self.named_modules() if f"{name}.".startswith(ZERO_CONVS)]

    @classmethod
    def from_unet(cls, unet: UNet2DConditionModel, seed: int = 0, **options: Any) -> Self:
        """A ControlNet to train beside `unet`: its way down copied, the rest drawn, the control
        nothing at first. `options` are keys of the config."""
        shared = {
            field.name for field in dataclasses.fields(EncoderConfig)
        } - ControlNetConfig.absent
        control = cls(
            ControlNetConfig(**{name: getattr(unet.config, name) for name in shared} | options)
        ).init_weights(seed)
        weights, own = unet.state_dict(), control.state_dict()
        control.load_state_dict(
            own | {name: tensor for name, tensor in weights.items() if name in own}
        )
        return control
