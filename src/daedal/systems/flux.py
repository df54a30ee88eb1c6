"""FLUX.1 (Black Forest Labs 2024): flow in latents, four cells a token. It is told T5's states and
the pooled state of CLIP. dev is told the guidance scale and asked once a step; schnell wants 1 and
4 steps; fill, canny and depth read a picture beside the latents."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.errors import DaedalError
from daedal.networks.flux import pack, positions, unpack
from daedal.nn.joint import NO_CONTROL, Residuals
from daedal.processes.samplers import Noise
from daedal.systems.conditions import Conditions, Control, inpainted, known_kind, summed
from daedal.systems.system import Conditioning, Prepared, System, square
from daedal.systems.text import T5, Clip

UNION = (
    "canny",
    "tile",
    "depth",
    "blur",
    "pose",
    "gray",
    "lowquality",
)  # kinds of ControlNets of several, by number
LENGTH, LENGTH_SCHNELL = 512, 256  # tokens of a prompt
SIDE = 128  # latent cells of a picture; its config.json does not say


class Flux(System):
    patch, evenly_spaced = 2, True
    takes = frozenset({"control", "lora", "then"})

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self.channels = (self.config.out_channels or self.config.in_channels) // self.patch**2
        self.clip, self.t5 = Clip(parts), T5(parts, "_2")
        self.towers = [self.clip]
        self.distilled = self.config.guidance_embeds
        self.length = LENGTH if self.distilled else LENGTH_SCHNELL
        steps, scale = (28, 3.5) if self.distilled else (4, 1.0)
        self.defaults = square(SIDE * self.codec.factor, steps=steps, guidance_scale=scale)

    @property
    def extra(self) -> int:  # type: ignore[override]
        """A LoRA may widen the network's first layer."""
        return self.network.config.in_channels // self.patch**2 - self.channels

    @property
    def inpaints(self) -> bool:  # type: ignore[override]
        return self.extra > self.channels

    @property
    def controls(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset() if self.extra == self.channels else frozenset({"FluxControlNetModel"})

    def encode(self, prompts: list[str], cut: bool = False) -> Conditioning:
        """{"text": (B, T, D), "pooled": (B, P)}"""
        text, _ = self.t5.read(prompts, self.length, masked=False, cut=cut)
        return {"text": text, "pooled": self.clip.read(prompts, 1)[1]}

    def prepare(self, conditioning: Conditioning, conditions: Conditions) -> Prepared:
        h, w = (side // self.codec.factor for side in conditions.size)
        if self.distilled:
            guidance = torch.full((1,), conditions.guidance_scale, device=self.device)
        else:
            guidance = None
        conditioning = {**conditioning, "ids": positions(h, w, device=self.device)}
        nets = [
            self.controlled(control, conditioning, conditions.guidance_scale)
            for control in conditions.controls
        ]
        return {**conditioning, "guidance": guidance, "controls": nets}

    def controlled(
        self,
        control: Control,
        conditioning: Conditioning,
        guidance_scale: float,
    ) -> Callable[[Tensor, Tensor], Residuals]:
        """(packed latents, time) -> what a ControlNet adds. One of several kinds is told which; one
        that reads pixels gets them."""
        alike = ("dim", "joint_attention_dim", "pooled_projection_dim")
        network = control.check(self.network, alike).network
        config, picture = network.config, control.picture
        hint = (
            picture if config.conditioning_embedding_channels else pack(self.codec.encode(picture))
        )
        more: Prepared = {"scale": control.scale, "guidance": None}
        if config.guidance_embeds:
            more["guidance"] = torch.full((1,), guidance_scale, device=hint.device)
        if config.num_mode:
            known = UNION[: config.num_mode]
            more["mode"] = torch.tensor(
                [known.index(known_kind(control.kind, known))], device=hint.device
            )
        return lambda x, time: network(
            x, time, hint=hint.expand(len(x), *hint.shape[1:]), **conditioning, **more
        )

    def predict(self, x: Tensor, time: Tensor, prepared: Prepared) -> Tensor:
        tokens = pack(x)
        conditioning = {key: value for key, value in prepared.items() if key != "controls"}
        seen = tokens[..., : self.patch**2 * self.channels]  # a ControlNet reads no mask
        control = summed([network(seen, time) for network in prepared["controls"]]) or NO_CONTROL
        return unpack(self.network(tokens, time, **conditioning, control=control), *x.shape[2:])

    def channel_conditioning(
        self,
        conditions: Conditions,
        rows: int,
        init: Tensor | None,
        mask: Tensor | None,
        noise: Noise,
    ) -> Tensor:
        """Of fill: the picture with what is painted made grey, and the mask with a channel for each
        pixel of a cell. Of canny and depth: the control picture."""
        if self.extra == self.channels:
            if len(conditions.pictures) != 1:
                raise DaedalError(
                    "this model follows one picture of edges, depth or the like; give control= (--control), for example depth:FILE.",
                )
            return self.codec.encode(
                conditions.pictures[0].to(self.device, self.network.proj_out.weight.dtype)
            )
        if self.extra != self.channels + self.codec.factor**2:
            count = self.network.config.in_channels
            raise DaedalError(
                f"a FLUX of {count} channels is not known; Daedal paints with those of 64, 128 and 384."
            )
        init, mask = inpainted(init, mask)
        return torch.cat(
            [self.codec.encode(init * (mask < 0.5)), F.pixel_unshuffle(mask, self.codec.factor)], 1
        )
