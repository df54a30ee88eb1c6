"""Open image models behind the image pipeline: folders that diffusers saves, by what their
`model_index.json` holds, and single files.

A system (daedal.systems) says how prompts become conditions and what the network predicts;
image-to-image, inpainting and what follows one model after another are the same for all
(daedal.processes.imaging)."""

from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from daedal.engine.store import STORE, stamp
from daedal.errors import DaedalError
from daedal.networks.autoencoder import decode_tiled
from daedal.nn.quick import quicken
from daedal.pipelines.given import Extras
from daedal.pipelines.open_adapters import LoraManager
from daedal.pipelines.open_control import Conditioners
from daedal.pipelines.open_parts import read_parts, stages_of
from daedal.pipelines.painter import CHOICES, Job, enlarged, snapped
from daedal.pipelines.place import located
from daedal.processes.imaging import colour_map, from_pixels, generating, pixels, seeded_noise
from daedal.processes.noise import Levels
from daedal.processes.prompts import remark
from daedal.processes.samplers import Denoise, Noise, Sampler, Steps, sampler_named
from daedal.systems import system_of
from daedal.systems.conditions import Conditions
from daedal.systems.deepfloyd import DeepFloyd
from daedal.systems.system import denoiser, guided_by

# latent cells that are decoded in one piece; more are decoded in tiles, for memory
WHOLE = 128 * 128
REFINED = 0.3  # share of the steps that a model which follows another runs on its picture


class OpenPainter:
    """A system, its codec and its schedule."""

    def __init__(self, parts: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
        self.system = system = system_of(parts)
        self.network = system.network
        self.vae = system.codec
        self.schedule = system.schedule
        self.dtype = dtype
        self.multiple = self.vae.factor * system.patch
        self.defaults = {**system.defaults, "sampler": self.schedule.sampler}
        self.takes, self.upscales, self.scale = system.takes, system.upscales, system.scale
        self.lora_manager = LoraManager(parts, system.towers)
        self.conditioners = Conditioners(parts, dtype, system.device)

    @classmethod
    def load(
        cls, place: Path, device: torch.device, dtype: torch.dtype, shared: Any = None
    ) -> "OpenPainter":
        """Of a folder, a folder of stages, or a single file. `shared` are parts that need not be
        read again."""
        first, *later = stages_of(place)
        parts = read_parts(first, dtype, device, shared or {})
        quicken(nn.ModuleList(part for part in parts.values() if isinstance(part, nn.Module)))
        painter = cls(parts, dtype)
        painter.defaults["then"] = tuple(str(stage) for stage in later)
        return painter

    @torch.no_grad()
    def paint(self, job: Job) -> Steps:
        """Steps to pictures (B, 3, H, W) in [-1, 1]. Networks that the job asks for are leased
        until its end."""
        with ExitStack() as leases:
            return (yield from self.painting(job, leases))

    def painting(self, job: Job, leases: ExitStack) -> Steps:
        self.lora_manager.apply(job.extras)
        made, device = self.system, self.system.device
        h, w = job.height // self.vae.factor, job.width // self.vae.factor
        # x is float32, whatever the network computes in
        draw = seeded_noise(job.seeds, (made.channels, h, w), device, job.params.like)
        noise = draw if made.conditioning_noise_first else first_drawn(draw)
        init = None if job.init is None else from_pixels(job.init).to(device, self.dtype)
        start = kept = None
        if init is not None and not made.upscales and not (made.inpaints and job.strength == 1):
            start = self.vae.encode(init).float().expand(len(job.seeds), -1, -1, -1)
        yield None  # the picture to start from is encoded
        levels = self.levels(job, h * w)
        if job.mask is not None and not made.inpaints:
            kept = ~painted_cells(job.mask, self.vae.factor).to(device)
        predict, sampler = self.predictor(job, init, draw, leases)
        yield None  # the prompts are encoded
        x = yield from generating(
            predict,
            noise,
            levels,
            sampler=sampler,
            start=start,
            kept=kept,
            opening=self.schedule.start,
        )
        pictures = yield from self.decode(x.to(self.dtype))
        for name in job.params.then or ():
            pictures = yield from self.followed(name, job, pictures, leases)
        return pictures

    def levels(self, job: Job, cells: int) -> Levels:
        """All levels, or with a picture to start from the last of them."""
        levels = self.schedule.levels(
            job.steps, tokens=cells // self.system.patch**2, evenly_spaced=self.system.evenly_spaced
        )
        return levels if job.init is None or self.upscales else levels.tail(job.strength)

    def predictor(
        self, job: Job, init: Tensor | None, draw: Noise, leases: ExitStack
    ) -> tuple[Denoise, Sampler]:
        """The denoiser of a job, and its sampler, which is told the variance that the network
        learned."""
        made, scale = self.system, job.guidance_scale
        if made.distilled and any(job.negatives):
            raise DaedalError(
                "this model has guidance built in and reads no negative prompt; leave `negative` out."
            )
        negatives = job.negatives if guided_by(made, scale) else []
        conditions = Conditions(
            (job.height, job.width),
            scale,
            len(negatives),
            job.params.noise_level,
            self.conditioners.controls(job, made.controls, leases),
            self.conditioners.reference(job, leases),
            [from_pixels(picture) for _, picture in job.extras.controls],
        )
        prepared = made.prepare(made.encode([*job.prompts, *negatives]), conditions)
        mask = extra = None
        if job.mask is not None and init is not None:
            mask = torch.from_numpy(job.mask)[None, None].to(init)
        if made.extra:
            extra = made.channel_conditioning(conditions, len(job.seeds), init, mask, draw)
            extra = extra.to(self.dtype)
        learned: list[Tensor] = []
        options: dict[str, Any] = dict(dtype=self.dtype, channel_conditioning=extra)
        predict = denoiser(made, prepared, guidance_scale=scale, learned=learned, **options)
        sampler = sampler_named(job.sampler)
        drawn = self.schedule.learned_variance and job.sampler == "ddpm"
        return predict, sampler.set(large=lambda: learned[0]) if drawn else sampler

    def decode(self, x: Tensor) -> Steps:
        """Latents (B, C, h, w) -> pictures, in tiles if they are large: a step a tile."""
        if self.vae.factor == 1 or x.shape[2] * x.shape[3] <= WHOLE:
            return self.vae.decode(x)
        made = []
        for one in x:
            made.append((yield from decode_tiled(self.vae, one[None])))
        return torch.cat(made)

    def followed(self, name: str, job: Job, pictures: Tensor, leases: ExitStack) -> Steps:
        """The pictures as the model of that name makes them larger, or refines them: one after
        another, with the prompt and seed of each."""
        place = located(name)
        alike = isinstance(self.system, DeepFloyd) and (place / "image_noising_scheduler").is_dir()
        shared = self.system.shared if alike else {}  # type: ignore[attr-defined]
        where = (self.system.device, self.dtype)
        key = ("painter", *stamp(place), *where, id(shared.get("text_encoder")))
        lease = STORE.lease(key, lambda: OpenPainter.load(place, *where, shared))
        stage = leases.enter_context(lease)
        yield None
        made = []
        for i, picture in enumerate(pixels(pictures)):
            steps = stage.paint(stage.job_after(job, i, picture))
            made.append((yield from at_step(steps, job.steps - 1)))
        return torch.cat(made)

    def job_after(self, job: Job, i: int, picture: np.ndarray) -> Job:
        """The job of this model for picture i of another: what the user left open is its own
        choice."""
        asked = {key: getattr(job.params, key) for key in CHOICES}
        asked |= {key: self.defaults[key] for key, value in asked.items() if value is None}
        size = picture.shape[:2]
        if self.upscales:
            size = enlarged(picture, (self.defaults["height"], self.defaults["width"]), self.scale)
        height, width = (snapped(side, self.multiple) for side in size)
        return Job(
            [job.prompts[i]], [job.negatives[i]], [job.seeds[i]], width, height, **asked, strength=REFINED, init=picture, mask=None,
            params=replace(job.params, then=()), extras=Extras(),
        )  # fmt: skip

    def preview(self, x0: Tensor, job: Job) -> np.ndarray:
        """The estimate at the size of the latents, in the colours of a linear map (no decoder
        runs)."""
        if self.vae.factor == 1:
            return pixels(x0)
        cells = F.pad(x0.float().cpu(), (0, 0, 0, 0, 0, 1), value=1.0)
        return pixels(torch.einsum("bchw,cd->bdhw", cells, self.colours))

    @cached_property
    def colours(self) -> Tensor:
        where = (self.system.device, self.dtype)
        return colour_map(lambda picture: self.vae.encode(picture.to(*where)), self.vae.factor)

    def remark(self, prompt: str) -> str:
        readers = [*self.system.towers, self.system.t5]
        return remark(prompt, [reader.tokenizer for reader in readers if reader])


def at_step(steps: Steps, number: int) -> Steps:
    """The steps of a model that follows another, each under the number of the first model's last."""
    while True:
        try:
            state = next(steps)
        except StopIteration as end:
            return end.value
        yield state and (number, *state[1:])


def first_drawn(draw: Noise) -> Noise:
    """A source whose first draw, x's, is made now: before any noise of what stands beside x."""
    first = [draw()]
    return lambda: first.pop() if first else draw()


def painted_cells(mask: np.ndarray, factor: int) -> Tensor:
    """(H, W) bool -> (1, 1, h, w): cells of the latents of which any pixel is painted."""
    h, w = mask.shape[0] // factor, mask.shape[1] // factor
    return torch.from_numpy(mask.reshape(h, factor, w, factor).any((1, 3)))[None, None]
