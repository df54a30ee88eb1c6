"""StyleGAN and BigGAN generators behind the image pipeline: a seed is a picture; the prompt names
the class, where there are classes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from daedal import checkpoints
from daedal.errors import DaedalError
from daedal.pipelines.painter import Job, generation_config, one_step
from daedal.processes.imaging import pixels, seeded_noise
from daedal.processes.samplers import Steps
from daedal.systems.gan import Gan


class GanPainter:
    takes: frozenset[str] = frozenset()
    upscales = False
    scale: int | None = None

    def __init__(self, network: nn.Module, settings: dict[str, Any]) -> None:
        self.network, self.gan = network, Gan(network, settings.get("classes", []))
        self.multiple = side = self.gan.side
        self.defaults = one_step(side, 1.0)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "GanPainter":
        network = checkpoints.load(folder, dtype=torch.float32, device=device).eval()
        return cls(network, generation_config(folder))

    @torch.no_grad()
    def paint(self, job: Job) -> Steps:
        if job.init is not None or (job.width, job.height) != (self.multiple, self.multiple):
            raise DaedalError(
                f"a GAN makes pictures of {self.multiple}x{self.multiple} out of nothing; leave init and size out."
            )
        z = seeded_noise(job.seeds, (self.gan.z_dim,), self.gan.device, job.params.like)()
        made = self.gan.paint(z, self.gan.encode(job.prompts), job.params.truncation)
        yield 0, made, made
        return made

    def preview(self, x0: Tensor, job: Job) -> np.ndarray:
        return pixels(x0)

    def remark(self, prompt: str) -> str:
        return ""  # a class is known, or `label` says which are
