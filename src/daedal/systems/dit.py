"""DiT (Peebles & Xie 2023): latents by class. The prompt is a class: its number, or a name of it
that model_index.json knows. An empty prompt is no class."""

import json
from typing import Any

import torch
from torch import Tensor

from daedal.errors import DaedalError, nearest
from daedal.systems.conditions import Conditions
from daedal.systems.system import Conditioning, Prepared, System, square


class ClassConditional(System):
    takes = frozenset({"then"})
    trainable = False

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self.patch = self.config.patch_size
        labels = (self.index.get("id2label") or {}).items()
        self.classes = {
            name.strip(): int(number) for number, names in labels for name in names.split(",")
        }
        self.defaults = square(
            self.config.sample_size * self.codec.factor, steps=50, guidance_scale=4.0
        )

    def encode(self, prompts: list[str], cut: bool = False) -> Conditioning:
        """{"classes": (B,)}"""
        labels = [self.label(prompt.strip()) for prompt in prompts]
        return {"classes": torch.tensor(labels, device=self.device)}

    def label(self, prompt: str) -> int:
        count = self.config.num_embeds_ada_norm
        if not prompt:
            return count
        if prompt in self.classes:
            return self.classes[prompt]
        if prompt.isdecimal() and int(prompt) < count:
            return int(prompt)
        known = f" or a name such as {json.dumps(next(iter(self.classes)))}" if self.classes else ""
        near = nearest(prompt, list(self.classes))
        raise DaedalError(
            f"{prompt!r} is not a class of this model{near}; give a number from 0 to {count - 1}{known}.",
        )

    def prepare(self, conditioning: Conditioning, conditions: Conditions) -> Prepared:
        return conditioning

    def predict(self, x: Tensor, time: Tensor, prepared: Prepared) -> Tensor:
        return self.network(x, time, prepared["classes"])
