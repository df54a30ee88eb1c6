"""Open models of clips behind the video pipeline: a folder that diffusers saved, whose networks are
loaded when they are used."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from daedal import checkpoints
from daedal.checkpoints.folder import kinds_of, load_part, networks_of, read_index
from daedal.engine.on_demand import OnDemand
from daedal.errors import DaedalError
from daedal.networks.motion import moved
from daedal.pipelines.house_video import Shot
from daedal.pipelines.video_adapters import VideoLoras
from daedal.processes.imaging import colour_map, from_pixels, generating, pixels
from daedal.processes.prompts import remark
from daedal.processes.samplers import Steps, sampler_named
from daedal.systems.animatediff import AnimateDiff
from daedal.systems.cogvideox import CogVideoX
from daedal.systems.conditions import Conditions
from daedal.systems.ltx import LTX
from daedal.systems.system import denoiser, guided_by, stacked
from daedal.systems.video import VideoSystem
from daedal.systems.wan import Wan

SYSTEMS: dict[str, type[VideoSystem]] = {  # by what diffusers calls the pipeline
    **dict.fromkeys(("WanPipeline", "WanImageToVideoPipeline"), Wan),
    **dict.fromkeys(("LTXPipeline", "LTXImageToVideoPipeline", "LTXConditionPipeline"), LTX),
    "AnimateDiffPipeline": AnimateDiff,
    **dict.fromkeys(("CogVideoXPipeline", "CogVideoXImageToVideoPipeline"), CogVideoX),
}


class OpenFilmer:
    """A system, its codec and its schedule."""

    takes_lora = True

    def __init__(self, system: VideoSystem, parts: dict[str, Any], dtype: torch.dtype) -> None:
        self.system, self.network, self.dtype = system, system.network, dtype
        self.multiple = system.pixels * system.patch
        self.most: int = system.defaults["frames"]
        self.takes, self.needs = system.takes, system.needs
        self.loras = VideoLoras(parts)
        self.defaults = system.defaults | {"sampler": system.schedule.sampler}
        self._colours: Tensor | None = None

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> "OpenFilmer":
        """Of a folder whose networks are loaded when they are used."""
        index = read_index(folder)
        parts: dict[str, Any] = {"model_index": index}
        for name, kind in kinds_of(index).items():
            network = name in networks_of(index)
            place = folder / name
            parts[name] = (
                OnDemand(place, dtype, device) if network else load_part(place, kind, dtype, device)
            )
        if "motion_adapter" in parts and kinds_of(index)["unet"] != "UNetMotionModel":
            pair = (checkpoints.load(folder / n, dtype, device) for n in ("unet", "motion_adapter"))
            parts["unet"] = moved(*pair)
        return cls(SYSTEMS[index["_class_name"]](parts), parts, dtype)

    def legal(self, frames: int, known: int = 0) -> int:
        """The nearest number of frames that it can make behind so many that are known."""
        seen = self.system.seen(known) if known else 0
        return self.system.legal(seen + frames) - seen

    def make(self, shot: Shot) -> Steps:
        """Steps that return clips (B, F, 3, H, W) in [-1, 1]. Of a clip that is gone on from the last
        frames are read, and those before stand in front."""
        if shot.front is None:
            return (yield from self.making(shot))
        before = len(shot.front) - self.system.seen(len(shot.front))
        rest = replace(shot, front=shot.front[before:], frames=shot.frames - before)
        made = yield from self.making(rest)
        first = torch.cat([from_pixels(frame) for frame in shot.front])[:before]
        return torch.cat([first.expand(len(made), -1, -1, -1, -1), made], 1)

    @torch.no_grad()
    def making(self, shot: Shot) -> Steps:
        """Steps that return all frames of the network."""
        self.loras.apply(shot.loras)
        made, device = self.system, self.system.device
        shape = made.latent_shape(shot.frames, shot.height, shot.width)
        noise = made.noise(shot.seeds, shape, device)
        front, end = (frames_of(given) for given in (shot.front, shot.end))
        known = made.known(front, end, shot.frames)
        yield None  # the pictures are read
        negatives = [shot.negative] * (len(shot.seeds) * guided_by(made, shot.guidance_scale))
        prompts = [*[shot.prompt] * len(shot.seeds), *negatives]
        read = {text: made.encode([text], cut=True) for text in dict.fromkeys(prompts)}
        told = stacked([read[text] for text in prompts], device)
        ends = [frames[:, :, 0] for frames in (front, end) if frames is not None]
        conditions = Conditions(
            (shot.height, shot.width),
            shot.guidance_scale,
            len(negatives),
            pictures=ends,
            known=known,
            rate=shot.rate,
        )
        predict = denoiser(
            made,
            made.prepare(told, conditions),
            guidance_scale=shot.guidance_scale,
            dtype=self.dtype,
            channel_conditioning=None if known.beside is None else known.beside.to(self.dtype),
        )
        rows = len(shot.seeds)
        start = None if known.start is None else known.start.expand(rows, -1, -1, -1, -1)
        cells = shape[1] * shape[2] * shape[3]
        levels = made.schedule.levels(shot.steps, tokens=cells, evenly_spaced=made.evenly_spaced)
        yield None  # the prompts are read
        x = yield from generating(
            predict,
            noise,
            levels,
            sampler=sampler_named(shot.sampler),
            start=start,
            kept=known.kept,
            opening=made.schedule.start,
        )
        return made.decoded(x, shot.frames, noise).float().transpose(1, 2).cpu()

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
        readers = [*self.system.towers, self.system.t5]
        tokenizers = [reader.tokenizer for reader in readers if reader]
        return remark(prompt, tokenizers, self.system.length)


def frames_of(given: np.ndarray | None) -> Tensor | None:
    """(K, H, W, 3) uint8 -> (1, 3, K, H, W) in [-1, 1]."""
    if given is None:
        return None
    return torch.stack([from_pixels(frame) for frame in given], 2)


def named(folder: Path) -> str:
    """What diffusers calls the pipeline of a folder of clips that Daedal films with; empty for any
    other."""
    index: dict[str, Any] = {}
    if (folder / "model_index.json").is_file():
        index = read_index(folder)
    kind = str(index.get("_class_name", ""))
    if kind in SYSTEMS:
        return kind
    if any(
        word in kind
        for word in ("Wan", "LTX", "CogVideo", "Hunyuan", "Mochi", "Video", "AnimateDiff")
    ):
        raise DaedalError(
            f"{folder} holds a {kind}; of the open models of clips Daedal knows {', '.join(SYSTEMS)}."
        )
    return ""
