"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): flow in latents by an MMDiT. It is told two CLIP
towers side by side, padded to the width of T5, whose tokens come behind them; a folder may leave T5
out."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.errors import DaedalError
from daedal.nn.joint import NO_CONTROL
from daedal.systems.conditions import Conditions, Control, summed
from daedal.systems.system import Conditioning, Prepared, System, square
from daedal.systems.text import T5, Clip, clip_text

LENGTH = 256  # of T5's part


class StableDiffusion3(System):
    takes = frozenset({"control", "lora", "then"})
    controls = frozenset({"SD3ControlNetModel"})

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self.towers = [Clip(parts), Clip(parts, "_2")]
        self.t5 = T5(parts, "_3") if "text_encoder_3" in parts else None
        self.patch = self.config.patch_size
        self.defaults = square(
            self.config.sample_size * self.codec.factor, steps=28, guidance_scale=7.0
        )

    def encode(self, prompts: list[str], cut: bool = False) -> Conditioning:
        """{"text": (B, T, D), "pooled": (B, P)}"""
        words, pooled = clip_text(self.towers, prompts, -2, cut)
        words = F.pad(words, (0, self.config.joint_attention_dim - words.shape[-1]))
        if self.t5 is None:
            more = words.new_zeros(len(words), LENGTH, words.shape[2])
        else:
            more = self.t5.read(prompts, LENGTH, masked=False, cut=cut)[0]
        return {"text": torch.cat([words, more], 1), "pooled": torch.cat(pooled, -1)}

    def prepare(self, conditioning: Conditioning, conditions: Conditions) -> Prepared:
        return {
            **conditioning,
            "controls": [(c.network, self.hint(c), c.scale) for c in conditions.controls],
        }

    def hint(self, control: Control) -> Tensor:
        """The encoded picture; networks that are told no pooled text were trained without the shift
        of the latents."""
        config = control.check(
            self.network, ("dim", "in_channels", "pooled_projection_dim")
        ).network.config
        if config.extra_conditioning_channels:
            reads = f"the {control.kind} network reads a mask too, which Daedal does not give it"
            raise DaedalError(f"{reads}; take one that reads the picture alone.")
        hint, codec = self.codec.encode(control.picture), self.codec.config
        if config.force_zeros_for_pooled_projection:
            return hint + codec.shift_factor * codec.scaling_factor
        return hint

    def predict(self, x: Tensor, time: Tensor, prepared: Prepared) -> Tensor:
        text, pooled, made = prepared["text"], prepared["pooled"], []
        for network, hint, scale in prepared["controls"]:
            seen = x if network.config.use_pos_embed else self.network.embed(x)
            words = text if network.config.joint_attention_dim else None
            made.append(
                network(seen, time, words, pooled, hint.expand(len(x), -1, -1, -1), scale=scale)
            )
        return self.network(x, time, text, pooled, control=summed(made) or NO_CONTROL)
