"""Stable Diffusion's 4x upscaler behind the image pipeline, which is also DeepFloyd IF's third stage: a U-Net on latents that reads, beside them,
a small picture made noisy (after Ho et al. 2021, noise conditioning augmentation)."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.errors import DaedalError
from daedal.pipelines.image import Job
from daedal.pipelines.open_control import Control, Reference
from daedal.pipelines.open_unet import Prepared, StableDiffusion
from daedal.processes import schedulers
from daedal.processes.noise import noised
from daedal.processes.samplers import Noise

SEEN = 3  # channels of the small picture beside the latents
AUGMENTATION = 20  # of the scheduler's steps: how noisy the network is told the small picture


class Upscaler(StableDiffusion):
    upscales, told_first = True, True
    takes = frozenset({"lora", "embedding", "then"})
    controls = frozenset()
    beside_known = SEEN

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self.inpaints, self.scale = False, int(self.vae.factor)  # a latent cell sees one pixel of the small picture
        self.axis = schedulers.trained_axis(schedulers.read(parts["low_res_scheduler"]).config)
        self.levels = int(self.index.get("max_noise_level") or 350)
        self.defaults |= {"steps": 75, "guidance_scale": 9.0}

    def noise_level(self, job: Job) -> int:
        level = AUGMENTATION if job.params.noise_level is None else job.params.noise_level
        if level > self.levels:
            raise DaedalError(f"noise_level={level} is more than this model was trained with; choose 0 to {self.levels}.")
        return level

    def prepare(self, job: Job, guided: bool, controls: list[Control], reference: Reference | None) -> Prepared:
        prepared = super().prepare(job, guided, controls, reference)
        label = torch.tensor([self.noise_level(job)], device=self.device)
        return replace(prepared, told=prepared.told | {"labels": label})

    def beside(self, job: Job, init: Tensor | None, mask: Tensor | None, noise: Noise) -> Tensor:
        """The small picture with noise, a pixel a latent cell."""
        if init is None:
            raise DaedalError("this model enlarges a picture; give init= (--init), or let it follow a smaller model: then= (--then).")
        small = (job.height // self.vae.factor, job.width // self.vae.factor)
        init = init if init.shape[2:] == small else F.interpolate(init, small, mode="bicubic", antialias=True).clamp(-1, 1)
        level = self.axis.at(torch.tensor([float(self.noise_level(job))], dtype=torch.float64))[0]
        return noised(init.expand(len(job.seeds), -1, -1, -1).float(), noise((SEEN, *small)), level)
