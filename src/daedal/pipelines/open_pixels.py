"""DeepFloyd IF behind the image pipeline: a cascade of U-Nets on pixels that read T5 (after Saharia et al. 2022, Imagen). Stage I paints 64
pixels a side; stage II is told a small picture, made noisy, and paints it four times as large."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.errors import DaedalError
from daedal.pipelines.image import Job
from daedal.processes import schedulers
from daedal.processes.noise import Level, noised
from daedal.processes.open_text import T5, device_of
from daedal.processes.samplers import Noise

AUGMENTATION = 250  # of 1000: how noisy stage II is told the small picture


class Pixels:
    """The codec of models without one."""

    factor = 1

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, images: Tensor) -> Tensor:
        return images


class DeepFloyd:
    """Stage I, or with an `image_noising_scheduler` stage II."""

    patch, even, distilled, inpaints, told_first = 8, False, False, False, False
    scale: int | None = None
    takes = frozenset({"lora", "then"})
    controls: frozenset[str] = frozenset()
    length = 77

    def __init__(self, parts: dict[str, Any]) -> None:
        self.network, self.t5 = parts["unet"], T5(parts)
        self.shared = {name: parts[name] for name in ("text_encoder", "tokenizer")}  # one T5 for all stages
        config, noising = self.network.config, parts.get("image_noising_scheduler")
        self.channels, self.upscales = config.out_channels // 2, noising is not None
        self.extra = config.in_channels - self.channels
        self.axis = schedulers.trained_axis(schedulers.read(noising).config) if noising else None
        steps, scale = (50, 4.0) if self.upscales else (100, 7.0)
        self.defaults = {"width": config.sample_size, "height": config.sample_size, "steps": steps, "guidance_scale": scale}

    def prepare(self, job: Job, guided: bool, controls: list[Any], reference: None) -> dict[str, Any]:
        prompts = [prompt.lower().strip() for prompt in [*job.prompts, *(job.negatives if guided else [])]]
        text = self.t5.read(prompts, self.length, masked=True)[0]
        labels = torch.full((1,), self.augmentation(job), device=self.device) if self.upscales else None
        return {"text": text, "text_kv": self.network.text_keys(text), "labels": labels}

    def augmentation(self, job: Job) -> float:
        return float(AUGMENTATION if job.params.noise_level is None else job.params.noise_level)

    def ask(self, x: Tensor, level: Level, prepared: dict[str, Any]) -> Tensor:
        return self.network(x, torch.full((len(x),), float(level.time), device=x.device), **prepared)

    def beside(self, job: Job, init: Tensor | None, mask: Tensor | None, noise: Noise) -> Tensor:
        """The small picture at the size that is painted, with noise."""
        if init is None or self.axis is None:
            raise DaedalError("this model enlarges a picture; give init= (--init), or let it follow a smaller model: then= (--then).")
        large = F.interpolate(init, (job.height, job.width), mode="bilinear", align_corners=True)
        level = self.axis.at(torch.tensor([self.augmentation(job)], dtype=torch.float64))[0]
        return noised(large, noise(), level)

    @property
    def device(self) -> torch.device:
        return device_of(self.network)
