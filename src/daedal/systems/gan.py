"""Generators of one step (StyleGAN 2 and 3, BigGAN) as training and painting both use them: what
they draw from, how a class is told, and the truncation of what is drawn."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError, nearest
from daedal.networks.biggan import BigGANGenerator


class Gan:
    """`classes` are the words that name them, by number."""

    def __init__(self, network: nn.Module, classes: Sequence[str] = ()) -> None:
        self.network, self.classes = network, list(classes)
        c: Any = network.config
        self.biggan = isinstance(network, BigGANGenerator)
        self.side: int = c.resolution if self.biggan else c.img_resolution  # pixels
        self.z_dim: int = c.dim_z if self.biggan else c.z_dim
        self.count: int = c.n_classes if self.biggan else c.c_dim

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Class numbers (B,)."""
        return torch.tensor([self.label(prompt) for prompt in prompts], device=self.device)

    def label(self, prompt: str) -> int:
        """The number of the class that a prompt names, or is."""
        if not self.count:
            return 0
        if prompt.isdigit() and int(prompt) < self.count:
            return int(prompt)
        found = [i for i, word in enumerate(self.classes) if word in prompt.lower()]
        if not found:
            known = ", ".join(self.classes[:20]) or f"a number below {self.count}"
            near = nearest(prompt, self.classes)
            raise DaedalError(
                f"{prompt!r} names none of this model's classes{near}; give one of: {known}."
            )
        return found[0]

    def condition(self, labels: Tensor) -> Tensor | None:
        """Class numbers (B,) as each family takes them."""
        if self.biggan:
            return labels
        return F.one_hot(labels, self.count).float() if self.count else None

    def paint(self, z: Tensor, labels: Tensor, truncation: float = 1.0) -> Tensor:
        """z (B, z_dim) -> pictures (B, 3, side, side) in [-1, 1]. Of BigGAN a narrower normal
        stands for a cut one."""
        if self.biggan:
            return self.network(z * truncation, self.condition(labels))
        return self.network(z, self.condition(labels), truncation=truncation)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device
