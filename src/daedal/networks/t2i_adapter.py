"""T2I-Adapter (Mou et al. 2023): a small convolutional network that reads an image of a condition
once and gives the U-Net one feature map a level, added at every step. The full adapter of Stable
Diffusion 1 and 2, and SDXL's.

Parameter names are those of diffusers' files. Legend: B batch, C channels, H and W pixels."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from daedal.networks.config import one_of
from daedal.nn.conv import Conv2d, init_


@dataclass(frozen=True, kw_only=True)
class T2IAdapterConfig:
    in_channels: int = 3
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    num_res_blocks: int = 2
    downscale_factor: int = 8
    adapter_type: str = "full_adapter"

    class_name: ClassVar[str] = "T2IAdapter"


class AdapterResnet(nn.Module):
    """x + block2(relu(block1(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block1 = Conv2d(channels, channels, 3, padding=1)
        self.block2 = Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w) -> (B, C, h, w)
        return x + self.block2(F.relu(self.block1(x)))


class AdapterLevel(nn.Module):
    """Halved where the U-Net's level is, brought to its channels, and a few residual blocks."""

    def __init__(self, inp: int, out: int, layers: int, down: bool) -> None:
        super().__init__()
        self.is_down = down
        self.in_conv = Conv2d(inp, out, 1) if inp != out else None
        self.resnets = nn.Sequential(*(AdapterResnet(out) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w) -> (B, C', h/2, w/2)
        x = F.avg_pool2d(x, 2, ceil_mode=True) if self.is_down else x
        return self.resnets(x if self.in_conv is None else self.in_conv(x))


class Adapter(nn.Module):
    def __init__(self, config: T2IAdapterConfig) -> None:
        super().__init__()
        sizes, factor = config.channels, config.downscale_factor
        xl = (
            one_of("adapter_type", config.adapter_type, ["full_adapter", "full_adapter_xl"])
            == "full_adapter_xl"
        )
        # SDXL's latents are halved once before its second level, and once after
        halved = {2} if xl else set(range(1, len(sizes)))
        self.factor = factor
        self.conv_in = Conv2d(config.in_channels * factor**2, sizes[0], 3, padding=1)
        inputs = [sizes[0], *sizes]
        self.body = nn.ModuleList(
            AdapterLevel(inputs[i], sizes[i], config.num_res_blocks, i in halved)
            for i in range(len(sizes))
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        x, features = self.conv_in(F.pixel_unshuffle(image, self.factor)), []
        for level in self.body:
            x = level(x)
            features.append(x)
        return features


class T2IAdapter(nn.Module):
    """Condition images (B, in_channels, H, W) in [0, 1] -> one feature map a level, what the U-Net
    takes as `features`. The maps of several adapters, weighed, are added level by level."""

    config_class = T2IAdapterConfig
    class_name = T2IAdapterConfig.class_name

    def __init__(self, config: T2IAdapterConfig) -> None:
        super().__init__()
        self.config, self.adapter = config, Adapter(config)

    def forward(self, image: Tensor, scale: float = 1.0) -> list[Tensor]:
        return [scale * feature for feature in self.adapter(image)]

    def init_weights(self, seed: int = 0) -> Self:
        return init_(self, seed)
