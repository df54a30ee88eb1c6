"""Stable Diffusion's 4x upscaler, which is also DeepFloyd IF's third stage: a U-Net on latents that
reads, beside them, a small picture made noisy (after Ho et al. 2021, noise conditioning
augmentation)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.errors import DaedalError
from daedal.processes import schedulers
from daedal.processes.noise import noised
from daedal.processes.samplers import Noise
from daedal.systems.conditions import Conditions
from daedal.systems.stable_diffusion import StableDiffusion
from daedal.systems.system import Conditioning, Prepared, wanted_picture

SEEN = 3  # channels of the small picture beside the latents
AUGMENTATION = 20  # of the scheduler's steps: how noisy the network is told the small picture


class Upscaler(StableDiffusion):
    upscales, conditioning_noise_first = True, True
    takes = frozenset({"lora", "embedding", "then"})
    controls = frozenset()
    beside_known = SEEN

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self.inpaints, self.scale = (
            False,
            int(self.codec.factor),
        )  # a latent cell sees one pixel of the small picture
        self.axis = schedulers.trained_axis(schedulers.read(parts["low_res_scheduler"]).config)
        self.levels = int(self.index.get("max_noise_level") or 350)
        self.defaults |= {"steps": 75, "guidance_scale": 9.0}

    def noise_level(self, conditions: Conditions) -> int:
        level = AUGMENTATION if conditions.noise_level is None else conditions.noise_level
        if level > self.levels:
            most = f"choose 0 to {self.levels}"
            raise DaedalError(
                f"noise_level={level} is more than this model was trained with; {most}."
            )
        return level

    def prepare(self, conditioning: Conditioning, conditions: Conditions) -> Prepared:
        label = torch.tensor([self.noise_level(conditions)], device=self.device)
        return super().prepare(conditioning, conditions) | {"labels": label}

    def channel_conditioning(
        self,
        conditions: Conditions,
        rows: int,
        init: Tensor | None,
        mask: Tensor | None,
        noise: Noise,
    ) -> Tensor:
        """The small picture with noise, a pixel a latent cell."""
        init, (height, width) = wanted_picture(init), conditions.size
        small = (height // self.codec.factor, width // self.codec.factor)
        if init.shape[2:] != small:
            init = F.interpolate(init, small, mode="bicubic", antialias=True).clamp(-1, 1)
        level = self.axis.at(
            torch.tensor([float(self.noise_level(conditions))], dtype=torch.float64)
        )[0]
        return noised(init.expand(rows, -1, -1, -1).float(), noise((SEEN, *small)), level)
