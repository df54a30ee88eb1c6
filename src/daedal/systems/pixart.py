"""PixArt-alpha and -Sigma (Chen et al. 2023, 2024): a DiT on latents that reads T5 in lower case,
its padding never. Alpha at 1024 pixels is told the size of the picture."""

from typing import Any

import torch
from torch import Tensor

from daedal.systems.conditions import Conditions
from daedal.systems.deepfloyd import lowered
from daedal.systems.system import Conditioning, Prepared, System, square
from daedal.systems.text import T5

LENGTH, LENGTH_SIGMA = 120, 300  # tokens of a prompt


class PixArt(System):
    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self.t5, self.patch = T5(parts), self.config.patch_size
        self.length = LENGTH_SIGMA if "Sigma" in self.index["_class_name"] else LENGTH
        self.defaults = square(
            self.config.sample_size * self.codec.factor, steps=20, guidance_scale=4.5
        )

    def encode(self, prompts: list[str], cut: bool = False) -> Conditioning:
        """{"text": (B, T, D), "mask": (B, T)}"""
        text, mask = self.t5.read(lowered(prompts), self.length, masked=True, cut=cut)
        return {"text": text, "mask": mask}

    def prepare(self, conditioning: Conditioning, conditions: Conditions) -> Prepared:
        text = conditioning["text"]
        size = torch.tensor([conditions.size]).to(text).expand(len(text), -1)
        if self.config.told_size:
            added = {"resolution": size, "aspect_ratio": size[:, :1] / size[:, 1:]}
        else:
            added = None
        return {
            "text_kv": self.network.text_keys(text),
            "text_mask": conditioning["mask"],
            "added": added,
        }

    def predict(self, x: Tensor, time: Tensor, prepared: Prepared) -> Tensor:
        return self.network(x, time, **prepared)
