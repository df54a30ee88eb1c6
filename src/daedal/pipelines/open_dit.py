"""Open image transformers behind the image pipeline: Stable Diffusion 3 (Esser et al. 2024), FLUX.1 (Black Forest Labs 2024), PixArt (Chen et
al. 2023, 2024) and DiT (Peebles & Xie 2023)."""

import json
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.errors import DaedalError, nearest
from daedal.networks.flux import pack, positions, unpack
from daedal.nn.joint import NO_CONTROL, Residuals
from daedal.pipelines.given import known_kind
from daedal.pipelines.image import Job
from daedal.pipelines.open_control import Control, inpainted, summed
from daedal.processes.imaging import from_pixels
from daedal.processes.noise import Level
from daedal.processes.open_text import T5, Clip, device_of, flux_text, sd3_text
from daedal.processes.samplers import Noise

UNION = ("canny", "tile", "depth", "blur", "pose", "gray", "lowquality")  # the kinds of FLUX's ControlNets of several, by number


def square(side: int, **settings: Any) -> dict[str, Any]:
    return {"width": side, "height": side, **settings}


def times(x: Tensor, level: Level) -> Tensor:
    """The level's time once an image, (B,)."""
    return torch.full((len(x),), float(level.time), device=x.device)


class Transformer:
    """What the four share. `even`: times start from 1, (S - 1) / S, ... (see Schedule.levels)."""

    distilled = even = upscales = told_first = inpaints = False
    scale: int | None = None
    takes = frozenset({"lora", "then"})

    def __init__(self, parts: dict[str, Any]) -> None:
        self.network, self.config, self.index = parts["transformer"], parts["transformer"].config, parts["model_index"]
        self.channels, self.patch, self.vae = self.config.in_channels, getattr(self.config, "patch_size", 1), parts["vae"]

    @property
    def extra(self) -> int:
        return 0

    @property
    def controls(self) -> frozenset[str]:
        return frozenset()

    def beside(self, job: Job, init: Tensor | None, mask: Tensor | None, noise: Noise) -> Tensor:
        raise NotImplementedError("no published model of this family reads more than latents")

    def prompts(self, job: Job, guided: bool) -> list[str]:
        return [*job.prompts, *(job.negatives if guided else [])]

    @property
    def device(self) -> torch.device:
        return device_of(self.network)


class StableDiffusion3(Transformer):
    """Two CLIP towers side by side, padded to the width of T5, whose tokens come behind them; a folder may leave T5 out."""

    takes = frozenset({"control", "lora", "then"})

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self.towers = [Clip(parts), Clip(parts, "_2")]
        self.t5 = T5(parts, "_3") if "text_encoder_3" in parts else None
        self.defaults = square(self.config.sample_size * self.vae.factor, steps=28, guidance_scale=7.0)

    def prepare(self, job: Job, guided: bool, controls: list[Control], reference: None) -> dict[str, Any]:
        told = sd3_text(self.towers, self.t5, self.prompts(job, guided), self.config.joint_attention_dim)
        return {"told": told, "controls": [(control.network, self.hint(control), control.scale) for control in controls]}

    @property
    def controls(self) -> frozenset[str]:
        return frozenset({"SD3ControlNetModel"})

    def hint(self, control: Control) -> Tensor:
        """The encoded picture; networks that are told no pooled text were trained without the shift of the latents."""
        config = control.check(self.network, ("dim", "in_channels", "pooled_projection_dim")).network.config
        if config.extra_conditioning_channels:
            raise DaedalError(f"the {control.kind} network reads a mask too, which Daedal does not give it; take one that reads the picture alone.")
        hint, codec = self.vae.encode(control.picture), self.vae.config
        return hint + codec.shift_factor * codec.scaling_factor if config.force_zeros_for_pooled_projection else hint

    def ask(self, x: Tensor, level: Level, prepared: dict[str, Any]) -> Tensor:
        time, text, pooled = times(x, level), prepared["told"]["text"], prepared["told"]["pooled"]
        made = []
        for network, hint, scale in prepared["controls"]:
            seen, words = x if network.config.use_pos_embed else self.network.embed(x), text if network.config.joint_attention_dim else None
            made.append(network(seen, time, words, pooled, hint.expand(len(x), -1, -1, -1), scale=scale))
        return self.network(x, time, text, pooled, control=summed(made) or NO_CONTROL)


class Flux(Transformer):
    """T5, and the pooled state of CLIP. dev is told the guidance scale and asked once a step; schnell wants 1 and 4 steps."""

    even, takes = True, frozenset({"control", "lora", "then"})

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self.channels, self.patch = (self.config.out_channels or self.config.in_channels) // 4, 2
        self.clip, self.t5 = Clip(parts), T5(parts, "_2")
        self.distilled = self.config.guidance_embeds
        few = not self.distilled
        self.length = 256 if few else 512
        self.defaults = square(128 * self.vae.factor, steps=4 if few else 28, guidance_scale=1.0 if few else 3.5)

    @property
    def extra(self) -> int:
        """A LoRA may widen the network's first layer."""
        return self.network.config.in_channels // 4 - self.channels

    @property
    def inpaints(self) -> bool:  # type: ignore[override]
        return self.extra > self.channels

    @property
    def controls(self) -> frozenset[str]:
        return frozenset() if self.extra == self.channels else frozenset({"FluxControlNetModel"})

    def beside(self, job: Job, init: Tensor | None, mask: Tensor | None, noise: Noise) -> Tensor:
        """Of fill: the picture with what is painted made grey, and the mask with a channel for each pixel of a cell. Of canny and depth: the
        control picture."""
        if self.extra == self.channels:
            if len(job.extras.controls) != 1:
                raise DaedalError("this model follows one picture of edges, depth or the like; give control= (--control), for example depth:FILE.")
            return self.vae.encode(from_pixels(job.extras.controls[0][1]).to(self.device, self.network.proj_out.weight.dtype))
        if self.extra != self.channels + self.vae.factor**2:
            raise DaedalError(f"a FLUX of {self.network.config.in_channels} channels is not known; Daedal paints with those of 64, 128 and 384.")
        init, mask = inpainted(init, mask)
        return torch.cat([self.vae.encode(init * (mask < 0.5)), F.pixel_unshuffle(mask, self.vae.factor)], 1)

    def prepare(self, job: Job, guided: bool, controls: list[Control], reference: None) -> dict[str, Any]:
        prompts, h, w = self.prompts(job, guided), job.height // self.vae.factor, job.width // self.vae.factor
        guidance = torch.full((1,), job.guidance_scale, device=self.device) if self.distilled else None
        told = {**flux_text(self.clip, self.t5, prompts, self.length), "ids": positions(h, w, device=self.device)}
        return {"told": told, "guidance": guidance, "controls": [self.controlled(control, told, job.guidance_scale) for control in controls]}

    def controlled(self, control: Control, told: dict[str, Tensor], guidance_scale: float) -> Callable[[Tensor, Tensor], Residuals]:
        """(packed latents, time) -> what a ControlNet adds. One of several kinds is told which; one that reads pixels gets them."""
        network, config = control.network, control.check(self.network, ("dim", "joint_attention_dim", "pooled_projection_dim")).network.config
        hint = control.picture if config.conditioning_embedding_channels else pack(self.vae.encode(control.picture))
        more: dict[str, Any] = {"guidance": torch.full((1,), guidance_scale, device=hint.device) if config.guidance_embeds else None}
        if config.num_mode:
            known = UNION[: config.num_mode]
            more["mode"] = torch.tensor([known.index(known_kind(control.kind, known))], device=hint.device)
        return lambda x, time: network(x, time, hint=hint.expand(len(x), *hint.shape[1:]), scale=control.scale, **told, **more)

    def ask(self, x: Tensor, level: Level, prepared: dict[str, Any]) -> Tensor:
        tokens, time, told = pack(x), times(x, level), prepared["told"]
        seen = tokens[..., : 4 * self.channels]  # a ControlNet reads no mask
        control = summed([network(seen, time) for network in prepared["controls"]]) or NO_CONTROL
        return unpack(self.network(tokens, time, **told, guidance=prepared["guidance"], control=control), *x.shape[2:])


class PixArt(Transformer):
    """T5 in lower case, its padding never read. Alpha at 1024 pixels is told the size of the picture."""

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self.t5 = T5(parts)
        self.length = 300 if "Sigma" in self.index["_class_name"] else 120
        self.defaults = square(self.config.sample_size * self.vae.factor, steps=20, guidance_scale=4.5)

    def prepare(self, job: Job, guided: bool, controls: list[Control], reference: None) -> dict[str, Any]:
        prompts = [prompt.lower().strip() for prompt in self.prompts(job, guided)]
        text, mask = self.t5.read(prompts, self.length, masked=True)
        size = torch.tensor([[job.height, job.width]]).to(text).expand(len(text), -1)
        added = {"resolution": size, "aspect_ratio": size[:, :1] / size[:, 1:]} if self.config.told_size else None
        return {"text_kv": self.network.text_keys(text), "text_mask": mask, "added": added}

    def ask(self, x: Tensor, level: Level, prepared: dict[str, Any]) -> Tensor:
        return self.network(x, times(x, level), **prepared)


class ClassConditional(Transformer):
    """The prompt is a class: its number, or a name of it that model_index.json knows. An empty negative prompt is no class."""

    takes = frozenset({"then"})

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        named = ((name.strip(), int(number)) for number, names in (self.index.get("id2label") or {}).items() for name in names.split(","))
        self.classes: dict[str, int] = dict(named)
        self.defaults = square(self.config.sample_size * self.vae.factor, steps=50, guidance_scale=4.0)

    def prepare(self, job: Job, guided: bool, controls: list[Control], reference: None) -> Tensor:
        return torch.tensor([self.label(prompt.strip()) for prompt in self.prompts(job, guided)], device=self.device)

    def label(self, prompt: str) -> int:
        count = self.config.num_embeds_ada_norm
        if not prompt:
            return count
        if prompt in self.classes:
            return self.classes[prompt]
        if prompt.isdecimal() and int(prompt) < count:
            return int(prompt)
        known = f" or a name such as {json.dumps(next(iter(self.classes)))}" if self.classes else ""
        raise DaedalError(
            f"{prompt!r} is not a class of this model{nearest(prompt, list(self.classes))}; give a number from 0 to {count - 1}{known}."
        )

    def ask(self, x: Tensor, level: Level, prepared: Tensor) -> Tensor:
        return self.network(x, times(x, level), prepared)
