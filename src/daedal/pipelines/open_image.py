"""Open image models behind the image pipeline: folders that diffusers saves, by what their `model_index.json` holds.

A family says how prompts become conditions and what the network is asked; the schedule, guidance, image-to-image and inpainting are the
same for all (daedal.processes.imaging).
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.checkpoints.components import load_components
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.pipelines.image import Job
from daedal.pipelines.prompts import apply_weights, chunked
from daedal.processes import schedulers
from daedal.processes.guidance import cfg
from daedal.processes.imaging import from_pixels, generate, pixels, seeded_noise
from daedal.processes.noise import Level
from daedal.processes.samplers import OnStep, sampler_named

Conditions = dict[str, Tensor]  # one row a prompt


class Family(Protocol):
    channels: int  # of the latents
    defaults: dict[str, Any]

    def encode(self, prompts: list[str], job: Job, *, negative: bool, chunks: int) -> Conditions:
        """What the network is told of the prompts."""
        ...

    def chunks(self, prompts: list[str]) -> int:
        """How many pieces the longest prompt needs."""
        ...

    def prepare(self, conditions: Conditions) -> Any:
        """What can be computed once for all steps."""
        ...

    def ask(self, x: Tensor, level: Level, prepared: Any) -> Tensor:
        """The network's output (B, channels, h, w)."""
        ...


class StableDiffusion:
    """Stable Diffusion 1 and 2, and XL: a U-Net that reads CLIP (Rombach et al. 2022, Podell et al. 2023)."""

    def __init__(self, parts: dict[str, Any]) -> None:
        self.unet, self.vae, self.index = parts["unet"], parts["vae"], parts["model_index"]
        towers = [(parts[f"text_encoder{n}"], Tokenizer.load(parts[f"tokenizer{n}"])) for n in ("", "_2") if f"text_encoder{n}" in parts]
        self.towers, self.xl = towers, self.unet.config.addition_embed_type == "text_time"
        self.channels = self.unet.config.out_channels
        side = (self.unet.config.sample_size or 64) * self.vae.factor
        self.defaults = {"width": side, "height": side, "steps": 30, "guidance_scale": 5.0 if self.xl else 7.5}
        self.distilled = self.unet.config.time_cond_proj_dim is not None

    def chunks(self, prompts: list[str]) -> int:
        return max(chunked(tokenizer, prompts, tower.config.max_position_embeddings).ids.shape[1] for tower, tokenizer in self.towers)

    def encode(self, prompts: list[str], job: Job, *, negative: bool, chunks: int) -> Conditions:
        states, pooled = [], None
        for tower, tokenizer in self.towers:
            made = chunked(tokenizer, prompts, tower.config.max_position_embeddings, chunks)
            features = tower(made.ids.flatten(0, 1).to(self.device))
            state = features.hidden[-2] if self.xl else features.last
            state = state.unflatten(0, made.ids.shape[:2]).flatten(1, 2)  # (B, chunks * 77, D)
            states.append(apply_weights(state, made.weights.flatten(1)))
            pooled = features.pooled.unflatten(0, made.ids.shape[:2])[:, 0]
        conditions = {"text": torch.cat(states, -1)}
        if self.xl and pooled is not None:
            conditions |= {"text_embeds": pooled, "time_ids": self.sizes(job, negative).to(pooled).expand(len(prompts), -1)}
            if negative and self.index.get("force_zeros_for_empty_prompt") and not any(prompts):
                conditions |= {key: torch.zeros_like(conditions[key]) for key in ("text", "text_embeds")}
        return conditions

    def sizes(self, job: Job, negative: bool) -> Tensor:
        """Original size, crop and target size; the refiner's original size, crop and aesthetic score."""
        size = [job.height, job.width, 0, 0]
        return torch.tensor([[*size, 2.5 if negative else 6.0] if self.index.get("requires_aesthetics_score") else [*size, job.height, job.width]])

    def prepare(self, conditions: Conditions) -> dict[str, Any]:
        added = {key: conditions[key] for key in ("text_embeds", "time_ids") if key in conditions}
        return {"text_kv": self.unet.text_keys(conditions["text"]), "added": added or None}

    def ask(self, x: Tensor, level: Level, prepared: dict[str, Any]) -> Tensor:
        return self.unet(x, torch.full((len(x),), float(level.time), device=x.device), **prepared)

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device


FAMILIES: dict[str, type] = {"UNet2DConditionModel": StableDiffusion}


def family(parts: dict[str, Any]) -> Family:
    network = parts.get("unet") or parts.get("transformer")
    kind = type(network).__name__
    if kind not in FAMILIES:
        raise DaedalError(f"the folder's {kind} is not an image network that can be painted with; known are {', '.join(FAMILIES)}.")
    return FAMILIES[kind](parts)


class OpenPainter:
    """A family, its codec and its schedule."""

    def __init__(self, parts: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
        self.family, self.vae, self.dtype = family(parts), parts["vae"], dtype
        self.schedule = schedulers.read(parts["scheduler"])
        self.multiple = self.vae.factor * getattr(self.family, "patch", 1)
        self.defaults = {**self.family.defaults, "sampler": self.schedule.sampler}
        self.extra = parts["unet"].config.in_channels - self.family.channels if "unet" in parts else 0  # 5: an inpainting model

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype) -> "OpenPainter":
        return cls(load_components(folder, dtype=dtype, device=device), dtype)

    @torch.no_grad()
    def paint(self, job: Job, on_step: OnStep | None) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1]."""
        made, device = self.family, next(self.vae.parameters()).device
        h, w = job.height // self.vae.factor, job.width // self.vae.factor
        noise = seeded_noise(job.seeds, (made.channels, h, w), device, self.dtype)
        levels = self.schedule.levels(job.steps)
        init = None if job.init is None else from_pixels(job.init).to(device, self.dtype)
        start = None if init is None else self.vae.encode(init).expand(len(job.seeds), -1, -1, -1)
        levels = levels if start is None else levels.tail(job.strength)
        mask = None if job.mask is None else painted_cells(job.mask, self.vae.factor).to(device)
        beside = self.beside(init, job, h, w) if self.extra else None
        predict = self.predictor(job, beside)
        x = generate(
            predict, noise, levels, sampler=sampler_named(job.sampler), start=start, kept=None if mask is None else ~mask,
            opening=self.schedule.start, on_step=on_step,
        )  # fmt: skip
        return self.vae.decode(x)

    def predictor(self, job: Job, beside: Tensor | None):
        """predict(x, level) -> x0: both prompts in one pass, guidance on x0, then what the schedule's config asks for."""
        made, meaning, schedule = self.family, self.schedule.parametrisation, self.schedule
        guided = job.guidance_scale != 1
        chunks = made.chunks([*job.prompts, *job.negatives])
        cond = made.encode(job.prompts, job, negative=False, chunks=chunks)
        if guided:
            without = made.encode(job.negatives, job, negative=True, chunks=chunks)
            cond = {key: torch.cat([value, without[key]]) for key, value in cond.items()}
        prepared = made.prepare(cond)

        def predict(x: Tensor, level: Level) -> Tensor:
            seen = meaning.scaled(x, level)
            seen = seen if beside is None else torch.cat([seen, beside.expand(len(x), -1, -1, -1)], 1)
            output = made.ask(torch.cat([seen, seen]) if guided else seen, level, prepared)[:, : made.channels]
            if not guided:
                return schedule.limit(meaning.denoised(output, x, level), x, level)
            one, other = output.chunk(2)
            x0 = cfg(meaning.denoised(one, x, level), meaning.denoised(other, x, level), job.guidance_scale)
            return schedule.limit(x0, x, level)

        return predict

    def beside(self, init: Tensor | None, job: Job, h: int, w: int) -> Tensor:
        """What an inpainting network sees beside the latents: the mask, and the picture with what is painted made grey."""
        if init is None or job.mask is None:
            raise DaedalError("this is an inpainting model; give init= and mask= (--init, --mask).")
        mask = torch.from_numpy(job.mask)[None, None].to(init)
        masked = self.vae.encode(init * (mask < 0.5))
        return torch.cat([F.interpolate(mask, (h, w)), masked], 1)

    def preview(self, x0: Tensor, job: Job) -> np.ndarray:
        """The estimate at an eighth of the size: its first three channels stretched to colours (no decoder runs)."""
        flat = x0[:, :3].float()
        low, high = flat.amin((1, 2, 3), keepdim=True), flat.amax((1, 2, 3), keepdim=True)
        return pixels((flat - low) / (high - low).clamp(min=1e-6) * 2 - 1)


def painted_cells(mask: np.ndarray, factor: int) -> Tensor:
    """(H, W) bool -> (1, 1, h, w): cells of the latents of which any pixel is painted."""
    h, w = mask.shape[0] // factor, mask.shape[1] // factor
    return torch.from_numpy(mask.reshape(h, factor, w, factor).any((1, 3)))[None, None]
