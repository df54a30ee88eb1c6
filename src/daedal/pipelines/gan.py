"""StyleGAN and BigGAN generators behind the image pipeline: a seed is a picture; the prompt names the class, where there are classes."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from daedal import checkpoints
from daedal.errors import DaedalError, nearest
from daedal.networks.biggan import BigGANGenerator
from daedal.networks.stylegan import StyleGAN2Generator
from daedal.pipelines.image import Job, generation_config
from daedal.processes.imaging import pixels, seeded_noise
from daedal.processes.samplers import Steps


class GanPainter:
    takes: frozenset[str] = frozenset()
    upscales = False
    scale: int | None = None

    def __init__(self, network: StyleGAN2Generator | BigGANGenerator, settings: dict[str, Any]) -> None:
        self.network, self.classes = network, list(settings.get("classes", []))
        c = network.config
        self.multiple = c.resolution if isinstance(network, BigGANGenerator) else c.img_resolution  # type: ignore[union-attr]
        self.z_dim = c.dim_z if isinstance(network, BigGANGenerator) else c.z_dim  # type: ignore[union-attr]
        self.count = c.n_classes if isinstance(network, BigGANGenerator) else c.c_dim  # type: ignore[union-attr]
        self.defaults = {"width": self.multiple, "height": self.multiple, "steps": 1, "guidance_scale": 1.0, "sampler": "euler"}

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "GanPainter":
        network = checkpoints.load(folder, dtype=torch.float32, device=device).eval()
        return cls(cast(StyleGAN2Generator | BigGANGenerator, network), generation_config(folder))

    @torch.no_grad()
    def paint(self, job: Job) -> Steps:
        if job.init is not None or (job.width, job.height) != (self.multiple, self.multiple):
            raise DaedalError(f"a GAN makes pictures of {self.multiple}x{self.multiple} out of nothing; leave init and size out.")
        device = next(self.network.parameters()).device
        z = seeded_noise(job.seeds, (self.z_dim,), device, job.params.like)()
        labels = torch.tensor([self.label(prompt) for prompt in job.prompts], device=device)
        psi = job.params.truncation
        if isinstance(self.network, StyleGAN2Generator):
            made = self.network(z, F.one_hot(labels, self.count).float() if self.count else None, truncation=psi)
        else:
            made = self.network(z * psi, labels)  # the truncation trick, with a narrower normal in place of a cut one
        yield 0, made, made
        return made

    def label(self, prompt: str) -> int:
        """The number of the class that a prompt names, or is."""
        if not self.count:
            return 0
        if prompt.isdigit() and int(prompt) < self.count:
            return int(prompt)
        found = [i for i, word in enumerate(self.classes) if word in prompt.lower()]
        if not found:
            known = ", ".join(self.classes[:20]) or f"a number below {self.count}"
            raise DaedalError(f"{prompt!r} names none of this model's classes{nearest(prompt, self.classes)}; give one of: {known}.")
        return found[0]

    def preview(self, x0: Tensor, job: Job) -> np.ndarray:
        return pixels(x0)

    def remark(self, prompt: str) -> str:
        return ""  # a class is known, or `label` says which are
