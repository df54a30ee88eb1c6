"""Wan 2.1 and 2.2 (Wan Team 2025): flow in the latents of a causal 3-D autoencoder, told umT5's
states. Wan 2.2 of 14 billion parameters has a network for high noise and another for low.

Frames are given in one of three ways. Models of 36 channels read, beside the latents, those of the
given frames among grey ones and which they are; those of Wan 2.1 also CLIP's view of them. Wan 2.2's
of 5 billion gives each token a time, and those given the time 0. Models of text alone see a first
frame as noisy as the rest."""

from typing import Any

import torch
from torch import Tensor

from daedal.networks.wan import TEXT
from daedal.processes.imaging import pixels
from daedal.systems.conditions import Conditions, Known, for_clip
from daedal.systems.system import Conditioning, Prepared, square
from daedal.systems.text import T5
from daedal.systems.video import VideoSystem


class Wan(VideoSystem):
    length = TEXT

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self.t5, self.patch = T5(parts), self.config.patch_size[1]
        self.channels = self.codec.config.z_dim
        self.low = parts.get("transformer_2")  # of low noise
        self.boundary = self.index.get("boundary_ratio") or 0.0  # below which it is asked
        self.eye: Any = parts.get("image_encoder")
        self.shown = self.config.in_channels != self.channels  # frames, beside the latents
        self.timed = bool(self.index.get("expand_timesteps"))  # each token
        self.takes = frozenset({"init", "extend"} if self.timed else {"init"})
        if self.shown:
            two = self.config.pos_embed_seq_len is not None
            self.needs = frozenset({"init", "last"} if two else {"init"})
            self.takes = self.needs if self.config.image_dim else frozenset({"init", "last"})
        size = square(704, width=1280, fps=24.0) if self.timed else square(480, width=832, fps=16.0)
        size |= {"frames": 121 if self.timed else 81}
        self.defaults = size | {"steps": 50, "guidance_scale": 5.0}

    def encode(self, prompts: list[str], cut: bool = False) -> Conditioning:
        """{"text": (B, 512, D)}, zeros behind each prompt's end."""
        text, there = self.t5.read(prompts, TEXT, masked=True, cut=True)
        return {"text": text * there[..., None]}

    def known(self, front: Tensor | None, end: Tensor | None, frames: int) -> Known:
        if not self.shown or front is None:
            return super().known(front, end, frames)
        clip = front.new_zeros(1, 3, frames, *front.shape[3:])
        given = torch.zeros(frames)
        clip[:, :, : front.shape[2]], given[: front.shape[2]] = front, 1
        if end is not None:
            clip[:, :, -1:], given[-1] = end, 1
        latents = self.codec.encode(clip.to(self.device, self.dtype)).float()
        # the first frame stands for as many as the others of a latent frame
        groups = torch.cat([given[:1].repeat(self.frames), given[1:]]).view(-1, self.frames)
        mask = groups.T[None, :, :, None, None].to(latents)
        return Known(beside=torch.cat([mask.expand(-1, -1, -1, *latents.shape[3:]), latents], 1))

    def prepare(self, conditioning: Conditioning, conditions: Conditions) -> Prepared:
        """Each network's own tokens of the text, and of CLIP's view of the pictures."""
        text, seen = conditioning["text"].to(self.dtype), None
        if self.config.image_dim:
            seen = torch.cat([self.look(picture) for picture in conditions.pictures])
            seen = seen.repeat(len(text), 1, 1)
        found: Prepared = {"known": conditions.known}
        for name, network in (("high", self.network), ("low", self.low)):
            found[name] = network and network.text_tokens(text, seen)
        return found

    def look(self, picture: Tensor) -> Tensor:
        """CLIP's states of a picture (1, 3, H, W), (1, 257, D)."""
        view = for_clip(pixels(picture)[0], self.eye.config.image_size)
        return self.eye(view.to(self.device, self.dtype)).hidden[-2]

    def predict(self, x: Tensor, time: Tensor, prepared: Prepared) -> Tensor:
        """x (B, C, F, h, w) at flow times in 0..1 -> the velocity."""
        if self.low is not None and float(time[0]) < self.boundary:
            return self.low(x, 1000 * time, tokens=prepared["low"])
        if self.timed:
            x, time = self.clean(x, time, prepared["known"])
        return self.network(x, 1000 * time, tokens=prepared["high"])
