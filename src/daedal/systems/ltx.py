"""LTX-Video (HaCohen et al. 2024): flow in the latents of an autoencoder of large cells, told T5's
states and where each cell is in seconds and pixels. What is given has the time 0. The decoders of
0.9.1 and later take latents with a little noise, and take it off."""

from typing import Any

import torch
from torch import Tensor

from daedal.networks.ltx import TEXT
from daedal.processes.samplers import Noise
from daedal.systems.conditions import Conditions
from daedal.systems.system import Conditioning, Prepared
from daedal.systems.text import T5
from daedal.systems.video import VideoSystem

TIME, NOISE = 0.05, 0.025  # what a decoder is told of its latents, and the noise they get


class LTX(VideoSystem):
    length = TEXT
    evenly_spaced = True
    takes = frozenset({"init", "extend"})

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self.t5 = T5(parts)
        size = {"width": 704, "height": 512, "frames": 161, "fps": 25.0}
        self.defaults = size | {"steps": 50, "guidance_scale": 3.0}

    def encode(self, prompts: list[str], cut: bool = False) -> Conditioning:
        """{"text": (B, 128, D), "mask": (B, 128)}. T5 sees padding; the network does not."""
        text, there = self.t5.read(prompts, TEXT, masked=False, cut=True)
        return {"text": text, "mask": there}

    def prepare(self, conditioning: Conditioning, conditions: Conditions) -> Prepared:
        cell = float(self.pixels)
        return {
            "tokens": self.network.caption_projection(conditioning["text"].to(self.dtype)),
            "mask": conditioning["mask"],
            "scale": (self.frames / conditions.rate, cell, cell),
            "known": conditions.known,
        }

    def predict(self, x: Tensor, time: Tensor, prepared: Prepared) -> Tensor:
        """x (B, C, F, h, w) at flow times in 0..1 -> the velocity."""
        x, time = self.clean(x, time, prepared["known"])
        told = {key: value for key, value in prepared.items() if key != "known"}
        return self.network(x, 1000 * time, **told)

    def decoded(self, latents: Tensor, frames: int, noise: Noise) -> Tensor:
        if not self.codec.config.timestep_conditioning:
            return super().decoded(latents, frames, noise)
        mean, spread = self.codec.scale(latents)  # the noise is not scaled, as in diffusers
        noisy = torch.lerp(latents, (noise() - mean) / spread, NOISE)
        return torch.cat([self.codec.decode(one[None].to(self.dtype), TIME) for one in noisy])
