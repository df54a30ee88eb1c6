"""Stable Diffusion 1, 2, XL and XL's refiner behind the image pipeline: U-Nets that read CLIP (Rombach et al. 2022, Podell et al. 2023)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.errors import DaedalError
from daedal.pipelines.image import Job
from daedal.pipelines.open_control import Control, Reference, inpainted, summed
from daedal.processes.noise import Level
from daedal.processes.open_text import Clip, device_of, unet_text
from daedal.processes.samplers import Noise

INPAINTING = 5  # channels beside the latents: the mask and the picture without what it hides


@dataclass(frozen=True)
class Prepared:
    """What the U-Net is told at every step, and the ControlNets beside it: (latents, time) -> what one adds."""

    told: dict[str, Any]
    controls: list[Callable[[Tensor, Tensor], Any]]


class StableDiffusion:
    """`distilled`: the network is told the guidance scale (LCM), and asked once a step."""

    patch, even = 1, False
    upscales = told_first = False
    scale: int | None = None
    beside_known = INPAINTING
    takes = frozenset({"control", "reference", "lora", "embedding", "then"})
    controls = frozenset({"ControlNetModel", "T2IAdapter"})

    def __init__(self, parts: dict[str, Any]) -> None:
        self.network, self.vae, self.index = parts["unet"], parts["vae"], parts["model_index"]
        self.towers = [Clip(parts, suffix) for suffix in ("", "_2") if f"text_encoder{suffix}" in parts]
        config = self.network.config
        self.xl, self.distilled = config.addition_embed_type == "text_time", config.time_cond_proj_dim is not None
        self.channels, self.extra = config.out_channels, config.in_channels - config.out_channels
        self.inpaints = self.extra > 0
        if self.extra not in (0, self.beside_known):
            raise DaedalError(
                f"a U-Net that reads {config.in_channels} channels is not one Daedal paints with; it knows 4, 9 of inpainting models and 7 of upscalers."
            )
        side = (config.sample_size or 64) * self.vae.factor
        steps, scale = (4, 7.5) if self.distilled else (30, 5.0 if self.xl else 7.5)
        self.defaults = {"width": side, "height": side, "steps": steps, "guidance_scale": scale}

    def prepare(self, job: Job, guided: bool, controls: list[Control], reference: Reference | None) -> Prepared:
        prompts = [*job.prompts, *(job.negatives if guided else [])]
        text, pooled = unet_text(self.towers, prompts, self.xl)
        if guided and self.index.get("force_zeros_for_empty_prompt") and not any(job.negatives):
            for states in (text, pooled):
                states[len(job.prompts) :] = 0
        added = {"text_embeds": pooled, "time_ids": self.sizes(job, len(prompts)).to(pooled)} if self.xl else None
        guidance = torch.full((1,), job.guidance_scale, device=text.device) if self.distilled else None
        keys, features = self.network.text_keys(text), self.features(controls)
        if reference:
            keys = reference.adapter.extend(keys, reference.rows(len(job.prompts), len(prompts) - len(job.prompts)), reference.scale)
        nets = [self.controlled(control, text, added) for control in controls if control.name == "ControlNetModel"]
        return Prepared({"text_kv": keys, "added": added, "guidance": guidance, "features": features}, nets)

    def controlled(self, control: Control, text: Tensor, added: dict[str, Tensor] | None) -> Callable[[Tensor, Tensor], Any]:
        """(latents, time) -> what a ControlNet adds."""
        network = control.check(self.network, ("cross_attention_dim", "block_out_channels", "addition_embed_type")).network
        keys, hint, scale = network.text_keys(text), control.positive, control.scale
        return lambda x, time: network(x, time, None, hint.expand(len(x), -1, -1, -1), scale=scale, text_kv=keys, added=added)

    def features(self, controls: list[Control]) -> list[Tensor]:
        """What the T2I-Adapters add to each level, the same at every step."""
        made = []
        for control in (each for each in controls if each.name == "T2IAdapter"):
            channels, wanted = control.network.config.channels, self.network.config.block_out_channels
            if channels[: len(wanted)] != wanted:
                raise DaedalError(
                    f"the {control.kind} adapter is for another model (channels {channels}, this one has {wanted}); take one for this model."
                )
            made.append(control.network(control.positive, control.scale))
        return [summed(list(level)) for level in zip(*made, strict=True)]

    def sizes(self, job: Job, rows: int) -> Tensor:
        """Original size, crop and target size of each row; the refiner's original size, crop and aesthetic score, low for negative prompts."""
        size = [job.height, job.width, 0, 0]
        if not self.index.get("requires_aesthetics_score"):
            return torch.tensor([[*size, job.height, job.width]] * rows)
        return torch.tensor([[*size, 6.0 if row < len(job.prompts) else 2.5] for row in range(rows)])

    def ask(self, x: Tensor, level: Level, prepared: Prepared) -> Tensor:
        time = torch.full((len(x),), float(level.time), device=x.device)
        control = summed([network(x[:, : self.channels], time) for network in prepared.controls])
        return self.network(x, time, control=control, **prepared.told)

    def beside(self, job: Job, init: Tensor | None, mask: Tensor | None, noise: Noise) -> Tensor:
        """The mask, and the picture with what is painted made grey."""
        init, mask = inpainted(init, mask)
        masked = self.vae.encode(init * (mask < 0.5))
        return torch.cat([F.interpolate(mask, masked.shape[2:]), masked], 1)

    @property
    def device(self) -> torch.device:
        return device_of(self.network)
