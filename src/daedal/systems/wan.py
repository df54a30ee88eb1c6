"""Wan 2.1 and 2.2 (Wan Team 2025): flow in the latents of a causal 3-D autoencoder, told umT5's
states. Wan 2.2 of 14 billion parameters has a network for high noise and another for low."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.errors import DaedalError
from daedal.networks.wan import TEXT
from daedal.systems.conditions import Conditions
from daedal.systems.system import Conditioning, Prepared, System, square
from daedal.systems.text import T5


class Wan(System):
    takes = frozenset({"init"})

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        if self.config.image_dim or self.config.in_channels != self.config.out_channels:
            raise DaedalError(
                "this Wan starts from a picture that CLIP reads; Daedal films with those that start from words."
            )
        self.t5, self.patch = T5(parts), self.config.patch_size[1]
        self.codec = parts["vae"]
        self.low = parts.get("transformer_2")  # of low noise
        self.boundary = self.index.get("boundary_ratio") or 0.0  # below which it is asked
        self.frames, self.pixels = self.codec.factors
        size = square(480, width=832) | {"frames": 81, "fps": 16.0}
        self.defaults = size | {"steps": 50, "guidance_scale": 5.0}

    def encode(self, prompts: list[str], cut: bool = False) -> Conditioning:
        """{"text": (B, 512, D)}, zeros behind each prompt's end."""
        text, there = self.t5.read(prompts, TEXT, masked=True, cut=True)
        return {"text": text * there[..., None]}

    def prepare(self, conditioning: Conditioning, conditions: Conditions) -> Prepared:
        """Each network's own tokens of the text."""
        text = conditioning["text"].to(self.dtype)
        found = {"high": self.network.text_tokens(text)}
        return found if self.low is None else found | {"low": self.low.text_tokens(text)}

    def predict(self, x: Tensor, time: Tensor, prepared: Prepared) -> Tensor:
        """x (B, C, F, h, w) at flow times in 0..1 -> the velocity."""
        if self.low is not None and float(time[0]) < self.boundary:
            return self.low(x, 1000 * time, tokens=prepared["low"])
        return self.network(x, 1000 * time, tokens=prepared["high"])

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, F, h, w) of the latents of a clip."""
        cells = height // self.pixels, width // self.pixels
        return self.channels, 1 + (frames - 1) // self.frames, *cells

    def first(self, picture: Tensor, shape: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
        """Latents (1, C, F, h, w) of which the first frame is a picture's (1, 3, H, W), and which are
        given, (F, 1, 1)."""
        one = self.codec.encode(picture[:, :, None].to(self.dtype)).float()
        given = torch.arange(shape[1], device=one.device)[:, None, None] == 0
        return F.pad(one, (0, 0, 0, 0, 0, shape[1] - 1)), given
