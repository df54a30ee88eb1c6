"""An open latent-diffusion model as training sees it: prompts become what the network is told, noisy latents an answer, at levels drawn for
training; and painted with, for class pictures and samples. Stable Diffusion 1, 2 and XL, SD3, FLUX and PixArt, by the class of the network.

    model = latent_model(load_components(folder))
    told = model.told(["a cat"])                      # one row a prompt
    output = model.ask(x, level.time, told)           # in the model's own parametrisation

Legend: B batch, C channels, h and w latent cells, H and W pixels.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from daedal.errors import DaedalError
from daedal.networks.flux import pack, positions, unpack
from daedal.processes import schedulers
from daedal.processes.guidance import cfg
from daedal.processes.imaging import generate, seeded_noise
from daedal.processes.noise import EDM, Flow, Level, shifted
from daedal.processes.open_text import T5, Clip, device_of, flux_text, sd3_text, unet_text
from daedal.processes.samplers import sampler_named

Told = dict[str, Tensor]
Ask = Callable[[Tensor, Tensor, Told], Tensor]


class LatentModel:
    """`patch`: latent cells a side of one token; `distilled`: the network is told the guidance scale; `dtype`: what the network computes in,
    that of its weights unless they are trained in fp32."""

    patch, distilled, even = 1, False, False

    def __init__(self, parts: dict[str, Any]) -> None:
        self.network, self.vae, self.index = parts.get("unet") or parts["transformer"], parts["vae"], parts["model_index"]
        self.schedule, self.dtype = schedulers.read(parts["scheduler"]), next(p.dtype for p in self.network.parameters())
        self.channels, self.towers = self.vae.config.latent_channels, [Clip(parts, end) for end in ("", "_2") if clip_in(parts, f"text_encoder{end}")]
        if isinstance(self.schedule.parametrisation, EDM):
            raise DaedalError(
                f"{self.schedule.name} is a schedule of EDM, which fine-tuning does not know; start from a model of DDPM or flow levels."
            )

    def told(self, prompts: list[str]) -> Told:
        """What the network is told of prompts, one row each and as long for all: what is too long for the text encoders is cut off."""
        raise NotImplementedError

    def ask(self, x: Tensor, time: Tensor, told: Told, **more: Any) -> Tensor:
        """The network's output (B, C or more, h, w) for latents x (B, C, h, w) at times (B,)."""
        raise NotImplementedError

    @property
    def side(self) -> int:
        """Pixels a side of the pictures that the model was made for."""
        return int((getattr(self.network.config, "sample_size", None) or 128) * self.vae.factor)

    @property
    def device(self) -> torch.device:
        return device_of(self.network)

    def level(self, rows: int, cells: int) -> Level:
        """Levels to train at, (B, 1, 1, 1) float32: a time of 0..N-1 drawn evenly, or for flow models logit-normal (Esser et al. 2024, eq. 19)
        and shifted as the schedule shifts the times of a picture of so many cells."""
        c = self.schedule.config
        if isinstance(self.schedule.parametrisation, Flow):
            shift = schedulers.flow_shift(c, c["shift"] if "shift" in c else c["flow_shift"], cells // self.patch**2, None)
            t = shifted(torch.randn(rows).sigmoid(), shift)
            found = (1 - t, t, t)
        else:
            levels = schedulers.trained_axis(c).at(torch.randint(c["num_train_timesteps"], (rows,)).double())
            found = (levels.alpha, levels.sigma, levels.time)
        return Level(*(value.float().view(-1, 1, 1, 1).to(self.device) for value in found))


class UNet(LatentModel):
    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        config = self.network.config
        self.xl = config.addition_embed_type == "text_time"
        if config.in_channels != self.channels or config.time_cond_proj_dim or self.index.get("requires_aesthetics_score"):
            raise DaedalError("the U-Net is one for inpainting, refining or few steps; fine-tune the base model it was made from.")

    def told(self, prompts: list[str]) -> Told:
        """An empty prompt is zeros where the model's folder says so, as XL's does."""
        text, pooled = unet_text(self.towers, prompts, self.xl, most=1)
        if self.index.get("force_zeros_for_empty_prompt"):
            said = torch.tensor([bool(prompt) for prompt in prompts], device=text.device)
            text, pooled = text * said[:, None, None], pooled * said[:, None]
        return {"text": text, "pooled": pooled}

    def ask(self, x: Tensor, time: Tensor, told: Told, **more: Any) -> Tensor:
        return self.network(x, time, **self.conditions(x, told), **more)

    def conditions(self, x: Tensor, told: Told) -> dict[str, Any]:
        """What the U-Net and its ControlNets are given of a prompt; XL is told the size of the picture, uncropped."""
        size = [side * self.vae.factor for side in x.shape[2:]]
        added = {"text_embeds": told["pooled"], "time_ids": torch.tensor([[*size, 0, 0, *size]], device=x.device).expand(len(x), -1)}
        return {"text": told["text"], "added": added if self.xl else None}


class SD3(LatentModel):
    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self.t5, self.patch = T5(parts, "_3") if "text_encoder_3" in parts else None, self.network.config.patch_size

    def told(self, prompts: list[str]) -> Told:
        made = sd3_text(self.towers, self.t5, prompts, self.network.config.joint_attention_dim, most=1)
        return made | {"text": made["text"][:, : self.towers[0].length + 256]}

    def ask(self, x: Tensor, time: Tensor, told: Told, **more: Any) -> Tensor:
        return self.network(x, time, told["text"], told["pooled"])


class Flux(LatentModel):
    patch, even = 2, True

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self.t5, self.distilled = T5(parts, "_2"), self.network.config.guidance_embeds
        self.length = 512 if self.distilled else 256

    def told(self, prompts: list[str]) -> Told:
        made = flux_text(self.towers[0], self.t5, prompts, self.length)
        return made | {"text": made["text"][:, : self.length]}

    def ask(self, x: Tensor, time: Tensor, told: Told, *, guidance: float = 1.0, **more: Any) -> Tensor:
        """A network that is told the guidance scale learns at 1, the scale at which its output is the data's."""
        scale = torch.full((1,), guidance, device=x.device) if self.distilled else None
        ids = positions(x.shape[2], x.shape[3], device=x.device)
        return unpack(self.network(pack(x), time, **told, ids=ids, guidance=scale), *x.shape[2:])


class PixArt(LatentModel):
    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self.t5, self.patch = T5(parts), self.network.config.patch_size
        self.length = 300 if "Sigma" in self.index["_class_name"] else 120

    def told(self, prompts: list[str]) -> Told:
        text, mask = self.t5.read([prompt.lower().strip() for prompt in prompts], self.length, masked=True)
        return {"text": text[:, : self.length], "mask": mask[:, : self.length]}

    def ask(self, x: Tensor, time: Tensor, told: Told, **more: Any) -> Tensor:
        size = torch.tensor([[side * self.vae.factor for side in x.shape[2:]]]).to(x).expand(len(x), -1)
        added = {"resolution": size, "aspect_ratio": size[:, :1] / size[:, 1:]} if self.network.config.told_size else None
        return self.network(x, time, text_kv=self.network.text_keys(told["text"]), text_mask=told["mask"], added=added)


FAMILIES: dict[str, type[LatentModel]] = {
    "UNet2DConditionModel": UNet,
    "SD3Transformer2DModel": SD3,
    "FluxTransformer2DModel": Flux,
    "PixArtTransformer2DModel": PixArt,
}


def clip_in(parts: dict[str, Any], role: str) -> bool:
    return hasattr(parts.get(role), "text_model")


def latent_model(parts: dict[str, Any]) -> LatentModel:
    """The model of a pipeline folder's parts (`load_components`)."""
    kind = type(parts.get("unet") or parts.get("transformer")).__name__
    if kind not in FAMILIES or "vae" not in parts:
        raise DaedalError(
            f"fine-tuning does not know pipelines of {kind} {'' if 'vae' in parts else 'without a codec'}; it knows {', '.join(FAMILIES)}."
        )
    return FAMILIES[kind](parts)


def stacked(told: list[Told], device: torch.device) -> Told:
    """Rows of several prompts as one batch."""
    return {key: torch.cat([each[key] for each in told]).to(device) for key in told[0]}


@torch.no_grad()
def paint(
    model: LatentModel, prompts: list[str], seeds: list[int], *, side: int, steps: int, guidance_scale: float, ask: Ask | None = None
) -> Tensor:
    """Pictures (B, 3, side, side) in [-1, 1], one a prompt and seed. `ask` stands in for the model's own."""
    cells, meaning, ask = side // model.vae.factor, model.schedule.parametrisation, ask or model.ask
    guided = guidance_scale != 1 and not model.distilled
    told = stacked([model.told([prompt]) for prompt in [*prompts, *([""] * len(prompts) if guided else [])]], model.device)
    more = {"guidance": guidance_scale} if model.distilled else {}

    def predict(x: Tensor, level: Level) -> Tensor:
        both = torch.cat([x, x]) if guided else x
        time = torch.full((len(both),), float(level.time), device=x.device)
        output = ask(both.to(model.dtype), time, told, **more).float()[:, : model.channels]
        cond, *uncond = meaning.denoised(output, both, level).split(len(x))
        return model.schedule.limit(cfg(cond, uncond[0], guidance_scale) if uncond else cond, x, level)

    noise = seeded_noise(seeds, (model.channels, cells, cells), model.device)
    levels = model.schedule.levels(steps, tokens=cells**2 // model.patch**2, even=model.even)
    x = generate(predict, noise, levels, sampler=sampler_named(model.schedule.sampler), opening=model.schedule.start)
    return model.vae.decode(x.to(next(model.vae.parameters()).dtype)).float()
