"""Open models of clips behind the video pipeline: a folder that diffusers saved."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from daedal import checkpoints
from daedal.checkpoints.folder import read_index
from daedal.errors import DaedalError
from daedal.pipelines.house_video import Shot
from daedal.processes.imaging import colour_map, from_pixels, generating, pixels, seeded_noise
from daedal.processes.prompts import remark
from daedal.processes.samplers import Steps, sampler_named
from daedal.systems.conditions import Conditions
from daedal.systems.system import denoiser, guided_by, stacked
from daedal.systems.wan import Wan

SYSTEMS = {"WanPipeline": Wan}  # by what diffusers calls the pipeline


class OpenFilmer:
    """A system, its codec and its schedule."""

    def __init__(self, system: Wan, dtype: torch.dtype) -> None:
        self.system, self.network, self.dtype = system, system.network, dtype
        self.multiple = system.pixels * system.patch
        self.most: int = system.defaults["frames"]
        self.takes = system.takes
        self.defaults = system.defaults | {"sampler": system.schedule.sampler}
        self._colours: Tensor | None = None

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> "OpenFilmer":
        parts = checkpoints.load_parts(folder, dtype=dtype, device=device)
        return cls(SYSTEMS[parts["model_index"]["_class_name"]](parts), dtype)

    def legal(self, frames: int) -> int:
        """The nearest number of frames that the codec can make."""
        per = self.system.frames
        return 1 + max(round((frames - 1) / per), 0) * per

    @torch.no_grad()
    def make(self, shot: Shot) -> Steps:
        """Steps that return clips (B, F, 3, H, W) in [-1, 1]."""
        made, device = self.system, self.system.device
        shape = made.latent_shape(shot.frames, shot.height, shot.width)
        noise = seeded_noise(shot.seeds, shape, device)
        start = kept = None
        if shot.front is not None:
            start, kept = made.first(from_pixels(shot.front[0]).to(device), shape)
            start = start.expand(len(shot.seeds), -1, -1, -1, -1)
        yield None  # the picture is read
        negatives = [shot.negative] * (len(shot.seeds) * guided_by(made, shot.guidance_scale))
        prompts = [*[shot.prompt] * len(shot.seeds), *negatives]
        read = {text: made.encode([text], cut=True) for text in dict.fromkeys(prompts)}
        told = stacked([read[text] for text in prompts], device)
        size = (shot.height, shot.width)
        prepared = made.prepare(told, Conditions(size, shot.guidance_scale, len(negatives)))
        predict = denoiser(made, prepared, guidance_scale=shot.guidance_scale, dtype=self.dtype)
        levels = made.schedule.levels(shot.steps, tokens=shape[1] * shape[2] * shape[3])
        yield None  # the prompts are read
        x = yield from generating(
            predict,
            noise,
            levels,
            sampler=sampler_named(shot.sampler),
            start=start,
            kept=kept,
            opening=made.schedule.start,
        )
        clips = [made.codec.decode(one[None].to(self.dtype)) for one in x]  # one by one, for memory
        return torch.cat(clips).float().transpose(1, 2).cpu()

    def total(self, shot: Shot) -> int:
        return shot.steps

    def preview(self, x0: Tensor, shot: Shot) -> np.ndarray:
        """A frame of the estimate at the size of the latents, in the colours of a linear map."""
        if self._colours is None:
            codec, where = self.system.codec, (self.system.device, self.dtype)
            self._colours = colour_map(
                lambda picture: codec.encode(picture[:, :, None].to(*where))[:, :, 0],
                self.system.pixels,
            )
        middle = x0[:, :, x0.shape[2] // 2].float().cpu()
        cells = F.pad(middle, (0, 0, 0, 0, 0, 1), value=1.0)
        return pixels(torch.einsum("bchw,cd->bdhw", cells, self._colours))

    def remark(self, prompt: str) -> str:
        return remark(prompt, [self.system.t5.tokenizer], 512)


def named(folder: Path) -> str:
    """What diffusers calls the pipeline of a folder of clips that Daedal films with; empty for any
    other."""
    index: dict[str, Any] = {}
    if (folder / "model_index.json").is_file():
        index = read_index(folder)
    kind = str(index.get("_class_name", ""))
    if kind in SYSTEMS:
        return kind
    if any(word in kind for word in ("Wan", "LTX", "CogVideo", "Hunyuan", "Mochi", "Video")):
        raise DaedalError(
            f"{folder} holds a {kind}; of the open models of clips Daedal knows {', '.join(SYSTEMS)}."
        )
    return ""
