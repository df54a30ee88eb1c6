"""DeepFloyd IF: a cascade of U-Nets on pixels that read T5 (after Saharia et al. 2022, Imagen).
Stage I paints 64 pixels a side; stage II is told a small picture, made noisy, and paints it four
times as large. (Stage III is the 4x upscaler.)"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.processes import schedulers
from daedal.processes.noise import noised
from daedal.processes.samplers import Noise
from daedal.systems.conditions import Conditions
from daedal.systems.system import Conditioning, Prepared, System, square, wanted_picture
from daedal.systems.text import T5

AUGMENTATION = 250  # of 1000: how noisy stage II is told the small picture
LENGTH = 77  # tokens of a prompt in training


class DeepFloyd(System):
    """Stage I, or with an `image_noising_scheduler` stage II."""

    role, patch, trainable = "unet", 8, False

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self.t5 = T5(parts)
        # one T5 for all stages
        self.shared = {name: parts[name] for name in ("text_encoder", "tokenizer")}
        noising = parts.get("image_noising_scheduler")
        self.channels, self.upscales = self.config.out_channels // 2, noising is not None
        self.extra = self.config.in_channels - self.channels
        self.axis = schedulers.trained_axis(schedulers.read(noising).config) if noising else None
        steps, scale = (50, 4.0) if self.upscales else (100, 7.0)
        self.defaults = square(self.config.sample_size, steps=steps, guidance_scale=scale)

    def encode(self, prompts: list[str], cut: bool = False) -> Conditioning:
        """{"text": (B, T, D)}"""
        return {"text": self.t5.read(lowered(prompts), LENGTH, masked=True, cut=cut)[0]}

    def prepare(self, conditioning: Conditioning, conditions: Conditions) -> Prepared:
        if self.upscales:
            labels = torch.full((1,), self.noise_level(conditions), device=self.device)
        else:
            labels = None
        return {
            "text": conditioning["text"],
            "text_kv": self.network.text_keys(conditioning["text"]),
            "labels": labels,
        }

    def noise_level(self, conditions: Conditions) -> float:
        return float(AUGMENTATION if conditions.noise_level is None else conditions.noise_level)

    def predict(self, x: Tensor, time: Tensor, prepared: Prepared) -> Tensor:
        return self.network(x, time, **prepared)

    def channel_conditioning(
        self,
        conditions: Conditions,
        rows: int,
        init: Tensor | None,
        mask: Tensor | None,
        noise: Noise,
    ) -> Tensor:
        """The small picture at the size that is painted, with noise."""
        init = wanted_picture(init if self.axis else None)
        large = F.interpolate(init, conditions.size, mode="bilinear", align_corners=True)
        at = torch.tensor([self.noise_level(conditions)], dtype=torch.float64)
        return noised(large, noise(), self.axis.at(at)[0])  # type: ignore[union-attr]


def lowered(prompts: list[str]) -> list[str]:
    """Prompts as IF and PixArt were trained with them."""
    return [prompt.lower().strip() for prompt in prompts]
