"""CogVideoX (Yang et al. 2024): v-prediction in the latents of a causal 3-D autoencoder, told T5's
states. Models from a picture read its latents beside the noisy first frame's."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.networks.cogvideox import TEXT
from daedal.processes.imaging import seeded_noise
from daedal.processes.samplers import Noise
from daedal.systems.conditions import Conditions, Known
from daedal.systems.system import Conditioning, Prepared
from daedal.systems.text import T5
from daedal.systems.video import VideoSystem


class CogVideoX(VideoSystem):
    length = TEXT

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        c = self.config
        self.t5, self.patch, self.channels = T5(parts), c.patch_size, c.out_channels
        self.step = (
            2 * self.frames
        )  # its codec was trained on pairs of latent frames behind the first
        self.together = c.patch_size_t or 1  # latent frames of a patch
        self.takes = self.needs = frozenset({"init"} if c.in_channels > self.channels else ())
        size = {
            "width": c.sample_width * self.pixels,
            "height": c.sample_height * self.pixels,
            "frames": c.sample_frames,
            "fps": 8.0 if c.patch_size_t is None else 16.0,
        }
        self.defaults = size | {"steps": 50, "guidance_scale": 6.0}

    def encode(self, prompts: list[str], cut: bool = False) -> Conditioning:
        """{"text": (B, 226, D)}; padding is seen."""
        return {"text": self.t5.read(prompts, TEXT, masked=False, cut=True)[0]}

    def prepare(self, conditioning: Conditioning, conditions: Conditions) -> Prepared:
        return {"tokens": self.network.text_tokens(conditioning["text"].to(self.dtype))}

    def predict(self, x: Tensor, time: Tensor, prepared: Prepared) -> Tensor:
        """x (B, C, F, h, w) at times in 0..999 -> v."""
        return self.network(x, time, **prepared)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """With as many latent frames as fill their patches; the first are dropped again."""
        channels, count, h, w = super().latent_shape(frames, height, width)
        return channels, -(-count // self.together) * self.together, h, w

    def noise(
        self, seeds: list[int], shape: tuple[int, int, int, int], device: torch.device
    ) -> Noise:
        """Drawn frame by frame, as diffusers does."""
        draw = seeded_noise(seeds, (shape[1], shape[0], *shape[2:]), device)
        return lambda: draw().transpose(1, 2)

    def known(self, front: Tensor | None, end: Tensor | None, frames: int) -> Known:
        if front is None:
            return Known()
        picture = self.codec.encode(front.to(self.device, self.dtype)).float()
        if self.codec.config.invert_scale_latents:
            picture = picture / self.codec.config.scaling_factor**2
        count = self.latent_shape(frames, 0, 0)[1]
        return Known(beside=F.pad(picture, (0, 0, 0, 0, 0, count - 1)))

    def decoded(self, latents: Tensor, frames: int, noise: Noise) -> Tensor:
        return super().decoded(
            latents[:, :, -super().latent_shape(frames, 0, 0)[1] :], frames, noise
        )
