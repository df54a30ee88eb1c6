"""Open image models behind the image pipeline: folders that diffusers saves, by what their `model_index.json` holds, and single files.

A family says how prompts become conditions and what the network is asked; the schedule, guidance, image-to-image, inpainting and what
follows one model after another are the same for all (daedal.processes.imaging).
"""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.errors import DaedalError
from daedal.networks.autoencoder import decode_tiled
from daedal.nn.quick import quicken
from daedal.pipelines.given import Extras
from daedal.pipelines.image import CHOICES, Job, enlarged, located, snapped
from daedal.pipelines.open_adapters import Wardrobe
from daedal.pipelines.open_control import Conditioners, Control
from daedal.pipelines.open_dit import ClassConditional, Flux, PixArt, StableDiffusion3
from daedal.pipelines.open_parts import read_parts, stages_of
from daedal.pipelines.open_pixels import DeepFloyd, Pixels
from daedal.pipelines.open_unet import StableDiffusion
from daedal.pipelines.open_upscaler import Upscaler
from daedal.processes import schedulers
from daedal.processes.guidance import cfg
from daedal.processes.imaging import colour_map, from_pixels, generating, pixels, seeded_noise
from daedal.processes.noise import Level, Levels
from daedal.processes.prompts import remark
from daedal.processes.samplers import Denoise, Noise, Sampler, Steps, sampler_named

WHOLE = 128 * 128  # latent cells that are decoded in one piece; more are decoded in tiles, for memory
REFINED = 0.3  # share of the steps that a model which follows another runs on its picture


class Family(Protocol):
    channels: int  # of the latents
    extra: int  # channels that the network reads beside them
    inpaints: bool  # picture and mask are among these
    upscales: bool  # so is a smaller picture,
    scale: int | None  # so many times smaller; None: of any size
    told_first: bool  # the noise of what stands beside the latents is drawn before theirs
    patch: int  # latent cells a side of one token
    even: bool  # see Schedule.levels
    distilled: bool  # the network is told the guidance scale
    defaults: dict[str, Any]
    takes: frozenset[str]  # of image.EXTRAS
    controls: frozenset[str]  # class names of the control networks that fit

    def prepare(self, job: Job, guided: bool, controls: list[Control], reference: Any) -> Any:
        """What can be computed once for all steps; one row a prompt, and if `guided` behind them one a negative prompt."""
        ...

    def ask(self, x: Tensor, level: Level, prepared: Any) -> Tensor:
        """The network's output for latents, and what stands beside them (B, channels + extra, h, w)."""
        ...

    def beside(self, job: Job, init: Tensor | None, mask: Tensor | None, noise: Noise) -> Tensor:
        """What the network reads beside the latents (B or 1, extra, h, w), of a picture (1, 3, H, W) and a mask (1, 1, H, W)."""
        ...

    @property
    def device(self) -> torch.device: ...


FAMILIES: dict[str, Any] = {
    "UNet2DConditionModel": StableDiffusion,
    "SD3Transformer2DModel": StableDiffusion3,
    "FluxTransformer2DModel": Flux,
    "PixArtTransformer2DModel": PixArt,
    "DiTTransformer2DModel": ClassConditional,
}


def family(parts: dict[str, Any]) -> Family:
    network = parts.get("unet") or parts.get("transformer")
    kind = type(network).__name__
    if kind not in FAMILIES:
        raise DaedalError(f"the folder's {kind} is not an image network that can be painted with; known are {', '.join(FAMILIES)}.")
    if "low_res_scheduler" in parts:
        return Upscaler(parts)
    return FAMILIES[kind](parts) if "vae" in parts else DeepFloyd(parts)


class OpenPainter:
    """A family, its codec and its schedule."""

    def __init__(self, parts: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
        self.network = parts.get("unet") or parts.get("transformer")
        self.family, self.vae, self.dtype = family(parts), parts.get("vae") or Pixels(), dtype
        self.schedule = schedulers.read(parts["scheduler"])
        self.multiple = self.vae.factor * self.family.patch
        self.defaults = {**self.family.defaults, "sampler": self.schedule.sampler}
        self.takes, self.upscales, self.scale = self.family.takes, self.family.upscales, self.family.scale
        self.wardrobe = Wardrobe(parts, getattr(self.family, "towers", []))
        self.conditioners = Conditioners(parts, dtype, self.family.device)
        self.later: dict[str, OpenPainter] = {}  # models that have followed this one

    @classmethod
    def load(cls, place: Path, device: torch.device, dtype: torch.dtype, shared: dict[str, Any] | None = None) -> "OpenPainter":
        """Of a folder, a folder of stages, or a single file. `shared` are parts that need not be read again."""
        first, *later = stages_of(place)
        parts = read_parts(first, dtype, device, shared or {})
        quicken(nn.ModuleList(part for part in parts.values() if isinstance(part, nn.Module)))
        painter = cls(parts, dtype)
        painter.defaults["then"] = tuple(str(stage) for stage in later)
        return painter

    @torch.no_grad()
    def paint(self, job: Job) -> Steps:
        """Steps to pictures (B, 3, H, W) in [-1, 1]."""
        self.wardrobe.wear(job.extras)
        made, device = self.family, self.family.device
        h, w = job.height // self.vae.factor, job.width // self.vae.factor
        draw = seeded_noise(job.seeds, (made.channels, h, w), device, job.params.like)  # x is float32, whatever the network computes in
        noise = draw if made.told_first else begun(draw)
        init = None if job.init is None else from_pixels(job.init).to(device, self.dtype)
        start = None if init is None or made.upscales or (made.inpaints and job.strength == 1) else self.vae.encode(init).float()
        yield None  # the picture to start from is encoded
        levels = self.levels(job, h * w)
        mask = None if job.mask is None or made.inpaints else painted_cells(job.mask, self.vae.factor).to(device)
        predict, sampler = self.predictor(job, init, draw)
        yield None  # the prompts are encoded
        x = yield from generating(
            predict, noise, levels, sampler=sampler, start=None if start is None else start.expand(len(job.seeds), -1, -1, -1),
            kept=None if mask is None else ~mask, opening=self.schedule.start,
        )  # fmt: skip
        pictures = yield from self.decode(x.to(self.dtype))
        for name in job.params.then or ():
            pictures = yield from self.followed(name, job, pictures)
        return pictures

    def levels(self, job: Job, cells: int) -> Levels:
        """All levels, or with a picture to start from the last of them."""
        levels = self.schedule.levels(job.steps, tokens=cells // self.family.patch**2, even=self.family.even)
        return levels if job.init is None or self.upscales else levels.tail(job.strength)

    def predictor(self, job: Job, init: Tensor | None, draw: Noise) -> tuple[Denoise, Sampler]:
        """predict(x, level) -> x0: both prompts in one pass, guidance on x0, then what the schedule's config asks for. The sampler is told the
        variance that the network learned, which is that of the prompt."""
        made, meaning, schedule = self.family, self.schedule.parametrisation, self.schedule
        guided = job.guidance_scale != 1 and not made.distilled
        if made.distilled and any(job.negatives):
            raise DaedalError("this model has guidance built in and reads no negative prompt; leave `negative` out.")
        controls, reference = self.conditioners.controls(job, made.controls), self.conditioners.reference(job)
        prepared = made.prepare(job, guided, controls, reference)
        mask = None if job.mask is None or init is None else torch.from_numpy(job.mask)[None, None].to(init)
        beside = made.beside(job, init, mask, draw).to(self.dtype) if made.extra else None
        learned: list[Tensor] = []

        def predict(x: Tensor, level: Level) -> Tensor:
            seen = meaning.scaled(x, level).to(self.dtype)
            seen = seen if beside is None else torch.cat([seen, beside.expand(len(x), -1, -1, -1)], 1)
            output = made.ask(torch.cat([seen, seen]) if guided else seen, level, prepared).float()
            learned[:] = [(output[: len(x), made.channels :] + 1) / 2]
            x0 = meaning.denoised(output[: len(x), : made.channels], x, level)
            if guided:
                x0 = cfg(x0, meaning.denoised(output[len(x) :, : made.channels], x, level), job.guidance_scale)
            return schedule.limit(x0, x, level)

        sampler = sampler_named(job.sampler)
        return predict, sampler.set(large=lambda: learned[0]) if schedule.learned_variance and job.sampler == "ddpm" else sampler

    def decode(self, x: Tensor) -> Steps:
        """Latents (B, C, h, w) -> pictures, in tiles if they are large: a step a tile."""
        if self.vae.factor == 1 or x.shape[2] * x.shape[3] <= WHOLE:
            return self.vae.decode(x)
        made = []
        for one in x:
            made.append((yield from decode_tiled(self.vae.decode, one[None])))
        return torch.cat(made)

    def followed(self, name: str, job: Job, pictures: Tensor) -> Steps:
        """The pictures as the model of that name makes them larger, or refines them: one after another, with the prompt and seed of each."""
        if name not in self.later:
            place = located(name)
            alike = isinstance(self.family, DeepFloyd) and (place / "image_noising_scheduler").is_dir()
            shared = self.family.shared if alike else {}  # type: ignore[attr-defined]
            self.later[name] = OpenPainter.load(place, self.family.device, self.dtype, shared)
            yield None
        stage, made = self.later[name], []
        for i, picture in enumerate(pixels(pictures)):
            made.append((yield from at_step(stage.paint(stage.job_after(job, i, picture)), job.steps - 1)))
        return torch.cat(made)

    def job_after(self, job: Job, i: int, picture: np.ndarray) -> Job:
        """The job of this model for picture i of another: what the user left open is its own choice."""
        asked = {key: self.defaults[key] if getattr(job.params, key) is None else getattr(job.params, key) for key in CHOICES}
        size = enlarged(picture, (self.defaults["height"], self.defaults["width"]), self.scale) if self.upscales else picture.shape[:2]
        height, width = (snapped(side, self.multiple) for side in size)
        return Job(
            [job.prompts[i]], [job.negatives[i]], [job.seeds[i]], width, height, **asked, strength=REFINED, init=picture, mask=None,
            params=replace(job.params, then=()), extras=Extras(),
        )  # fmt: skip

    def preview(self, x0: Tensor, job: Job) -> np.ndarray:
        """The estimate at the size of the latents, in the colours of a linear map (no decoder runs)."""
        if self.vae.factor == 1:
            return pixels(x0)
        return pixels(torch.einsum("bchw,cd->bdhw", F.pad(x0.float().cpu(), (0, 0, 0, 0, 0, 1), value=1.0), self.colours))

    @cached_property
    def colours(self) -> Tensor:
        return colour_map(lambda picture: self.vae.encode(picture.to(self.family.device, self.dtype)), self.vae.factor)

    def remark(self, prompt: str) -> str:
        f = self.family
        readers = [*getattr(f, "towers", []), getattr(f, "clip", None), getattr(f, "t5", None)]
        return remark(prompt, [reader.tokenizer for reader in readers if reader])


def at_step(steps: Steps, number: int) -> Steps:
    """The steps of a model that follows another, each under the number of the first model's last."""
    while True:
        try:
            state = next(steps)
        except StopIteration as end:
            return end.value
        yield state and (number, *state[1:])


def begun(draw: Noise) -> Noise:
    """A source whose first draw, x's, is made now: before any noise of what stands beside x."""
    first = [draw()]
    return lambda: first.pop() if first else draw()


def painted_cells(mask: np.ndarray, factor: int) -> Tensor:
    """(H, W) bool -> (1, 1, h, w): cells of the latents of which any pixel is painted."""
    h, w = mask.shape[0] // factor, mask.shape[1] // factor
    return torch.from_numpy(mask.reshape(h, factor, w, factor).any((1, 3)))[None, None]
