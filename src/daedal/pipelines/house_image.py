"""The house's image model behind the image pipeline."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daedal import checkpoints
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.media import MediaTransformer
from daedal.pipelines.painter import Job, generation_config
from daedal.processes.imaging import edges, from_pixels, pixels
from daedal.processes.prompts import remark
from daedal.processes.samplers import Steps, sampler_named
from daedal.systems.conditions import known_kind
from daedal.systems.house_media import encode, flow_levels, painting


class HousePainter:
    upscales = False
    scale: int | None = None

    def __init__(
        self, network: MediaTransformer, tokenizer: Tokenizer, settings: dict[str, Any]
    ) -> None:
        self.network, self.tokenizer, c = network, tokenizer, network.config
        self.multiple = network.codec.side
        self.takes = frozenset({"control"} if c.control_size else ())
        size = {"width": c.sample_size, "height": c.sample_size}
        self.shift = settings.pop("shift", 1.0)  # of the steps towards noise
        self.defaults = {**size, "steps": 20, "guidance_scale": 3.0, "sampler": "euler", **settings}

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> "HousePainter":
        network = checkpoints.load(folder, dtype=torch.float32, device=device)
        if not isinstance(network, MediaTransformer):
            raise DaedalError(
                f"{folder} holds a {type(network).__name__}, which paints nothing by itself; give a media transformer or a pipeline folder."
            )
        network.compute_dtype = None if dtype == torch.float32 else dtype
        return cls(network, Tokenizer.load(folder), generation_config(folder))

    def paint(self, job: Job) -> Steps:
        tokens = encode(self.network, self.tokenizer, job.prompts)
        negative = encode(self.network, self.tokenizer, job.negatives)
        levels, start = flow_levels(job.steps, self.shift), None
        if job.init is not None:
            levels = levels.tail(job.strength)
            start = from_pixels(job.init).expand(len(job.seeds), -1, -1, -1)
        return painting(
            self.network, tokens, negative, job.seeds, levels, guidance_scale=job.guidance_scale,
            sampler=sampler_named(job.sampler), size=(job.height, job.width), start=start, kept=self.kept(job.mask),
            control=self.hint(job), like=job.params.like,
        )  # fmt: skip

    def hint(self, job: Job) -> Tensor | None:
        """Edges to follow (1, 1, H, W): a picture of them, or the edges of a picture."""
        if not job.extras.controls:
            return None
        if len(job.extras.controls) > 1:
            raise DaedalError(
                f"the house model follows one control picture, and {len(job.extras.controls)} were given; leave one."
            )
        ((kind, picture),) = job.extras.controls
        image = from_pixels(picture)  # (1, 3, H, W)
        if known_kind(kind, ("edges", "edges-of")) == "edges-of":
            found = edges(image)
        else:
            found = (image.mean(1, keepdim=True) > 0).float()
        return found * job.params.control_scale

    def kept(self, mask: np.ndarray | None) -> Tensor | None:
        """Patches (T,) of which no pixel is painted."""
        if mask is None:
            return None
        p = self.multiple
        patches = mask.reshape(mask.shape[0] // p, p, mask.shape[1] // p, p)
        return torch.from_numpy(~patches.any((1, 3))).flatten()

    def preview(self, x0: Tensor, job: Job) -> np.ndarray:
        return pixels(self.network.codec.decode(x0, job.height, job.width))

    def remark(self, prompt: str) -> str:
        return remark(prompt, [self.tokenizer], self.network.config.text_length)
