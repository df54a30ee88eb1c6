"""Stable Diffusion 1, 2, XL and XL's refiner: U-Nets on latents that read CLIP (Rombach et al.
2022, Podell et al. 2023).

1 and 2 are told the last states of one tower; XL the last but one of two towers, the second's
pooled state, and the picture's size."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.errors import DaedalError
from daedal.processes.samplers import Noise
from daedal.systems.conditions import Conditions, Control, inpainted, summed
from daedal.systems.system import Conditioning, Prepared, System, square
from daedal.systems.text import Clip, clip_text

INPAINTING = 5  # channels beside the latents: the mask and the picture without what it hides
AESTHETICS = (6.0, 2.5)  # scores that the refiner is told of prompts and of negative ones


class StableDiffusion(System):
    """`distilled`: a latent consistency model (Luo et al. 2023)."""

    role = "unet"
    beside_known = INPAINTING
    takes = frozenset({"control", "reference", "lora", "embedding", "then"})
    controls = frozenset({"ControlNetModel", "T2IAdapter"})

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        c = self.config
        self.towers = [Clip(parts, end) for end in ("", "_2") if f"text_encoder{end}" in parts]
        self.xl = c.addition_embed_type == "text_time"
        self.distilled = c.time_cond_proj_dim is not None
        self.channels, self.extra = c.out_channels, c.in_channels - c.out_channels
        self.inpaints = self.extra > 0
        self.refines = bool(self.index.get("requires_aesthetics_score"))
        self.trainable = not (self.extra or self.distilled or self.refines)
        if self.extra not in (0, self.beside_known):
            raise DaedalError(
                f"a U-Net that reads {c.in_channels} channels is not one Daedal paints with; it knows 4, 9 of inpainting models and 7 of upscalers.",
            )
        steps, scale = (4, 7.5) if self.distilled else (30, 5.0 if self.xl else 7.5)
        side = (c.sample_size or 64) * self.codec.factor
        self.defaults = square(side, steps=steps, guidance_scale=scale)

    def encode(self, prompts: list[str], cut: bool = False) -> Conditioning:
        """{"text": (B, T, D), "pooled": (B, P)}. An empty prompt is zeros where the model's folder
        says so, as XL's does."""
        text, pooled = clip_text(self.towers, prompts, -2 if self.xl else -1, cut)
        conditioning = {"text": text, "pooled": pooled[-1]}
        if not self.index.get("force_zeros_for_empty_prompt"):
            return conditioning
        said = torch.tensor([bool(prompt) for prompt in prompts], device=text.device)
        return {
            key: states * said.view(-1, *[1] * (states.dim() - 1))
            for key, states in conditioning.items()
        }

    def prepare(self, conditioning: Conditioning, conditions: Conditions) -> Prepared:
        text, count = conditioning["text"], len(conditioning["text"])
        added = {
            "text_embeds": conditioning["pooled"],
            "time_ids": self.sizes(conditions, count).to(conditioning["pooled"]),
        }
        keys = self.network.text_keys(text)
        if reference := conditions.reference:
            rows = reference.rows(count - conditions.negatives, conditions.negatives)
            keys = reference.adapter.extend(keys, rows, reference.scale)
        if self.distilled:
            guidance = torch.full((1,), conditions.guidance_scale, device=text.device)
        else:
            guidance = None
        made = {"text_kv": keys, "added": added if self.xl else None, "guidance": guidance}
        nets = [
            self.controlled(c, text, made["added"])
            for c in conditions.controls
            if c.name == "ControlNetModel"
        ]
        return made | {"features": self.features(conditions.controls), "controls": nets}

    def sizes(self, conditions: Conditions, rows: int) -> Tensor:
        """Original size, crop and target size of each row; the refiner's original size, crop and
        aesthetic score, low for negative prompts."""
        size = [*conditions.size, 0, 0]
        if not self.refines:
            return torch.tensor([[*size, *conditions.size]] * rows)
        return torch.tensor(
            [[*size, AESTHETICS[row >= rows - conditions.negatives]] for row in range(rows)]
        )

    def controlled(
        self,
        control: Control,
        text: Tensor,
        added: dict[str, Tensor] | None,
    ) -> Callable[[Tensor, Tensor], Any]:
        """(latents, time) -> what a ControlNet adds."""
        alike = ("cross_attention_dim", "block_out_channels", "addition_embed_type")
        network, hint = control.check(self.network, alike).network, control.positive
        conditioning = {"text_kv": network.text_keys(text), "added": added, "scale": control.scale}
        return lambda x, time: network(
            x, time, None, hint.expand(len(x), -1, -1, -1), **conditioning
        )

    def features(self, controls: Sequence[Control]) -> list[Tensor]:
        """What the T2I-Adapters add to each level, the same at every step."""
        made = []
        for control in (each for each in controls if each.name == "T2IAdapter"):
            channels, wanted = control.network.config.channels, self.config.block_out_channels
            if channels[: len(wanted)] != wanted:
                differ = f"channels {channels}, this one has {wanted}"
                raise DaedalError(
                    f"the {control.kind} adapter is for another model ({differ}); take one for this model.",
                )
            made.append(control.network(control.positive, control.scale))
        return [summed(list(level)) for level in zip(*made, strict=True)]

    def predict(self, x: Tensor, time: Tensor, prepared: Prepared) -> Tensor:
        conditioning = {key: value for key, value in prepared.items() if key != "controls"}
        control = summed([network(x[:, : self.channels], time) for network in prepared["controls"]])
        return self.network(x, time, control=control, **conditioning)

    def channel_conditioning(
        self,
        conditions: Conditions,
        rows: int,
        init: Tensor | None,
        mask: Tensor | None,
        noise: Noise,
    ) -> Tensor:
        """The mask, and the picture with what is painted made grey."""
        init, mask = inpainted(init, mask)
        masked = self.codec.encode(init * (mask < 0.5))
        return torch.cat([F.interpolate(mask, masked.shape[2:]), masked], 1)
