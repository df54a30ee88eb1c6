"""What systems of clips share: a codec that makes latent frames of groups of frames, and frames that
are given, which the network sees clean.

Legend: B rows, C channels, F latent frames, h and w latent cells, K frames given, H and W pixels."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.processes.imaging import seeded_noise
from daedal.processes.samplers import Noise
from daedal.systems.conditions import Known
from daedal.systems.system import System


class VideoSystem(System):
    """A system of clips. `frames` and `pixels` are what a latent cell stands for."""

    takes = frozenset({"init"})
    needs = frozenset[str]()  # of these, what it cannot do without
    length: int | None = None  # tokens of a prompt that are read

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__(parts)
        self.frames, self.pixels = self.codec.factors
        self.step = self.frames  # between the numbers of frames that it can make

    def legal(self, frames: int) -> int:
        """The nearest number of frames that the codec can make."""
        return 1 + max(round((frames - 1) / self.step), 0) * self.step

    def seen(self, frames: int) -> int:
        """How many of the last of so many given frames the network goes on from."""
        return (
            1
            + (min(frames, self.legal(self.defaults["frames"] // 2)) - 1)
            // self.frames
            * self.frames
        )

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, F, h, w) of the latents of a clip."""
        cells = height // self.pixels, width // self.pixels
        return self.channels, 1 + (frames - 1) // self.frames, *cells

    def noise(
        self, seeds: list[int], shape: tuple[int, int, int, int], device: torch.device
    ) -> Noise:
        """A source of noise (B, C, F, h, w)."""
        return seeded_noise(seeds, shape, device)

    def known(self, front: Tensor | None, end: Tensor | None, frames: int) -> Known:
        """What the network is shown of a clip of so many frames that begins with `front` (1, 3, K,
        H, W) in [-1, 1] and ends with `end` (1, 3, 1, H, W)."""
        del end
        if front is None:
            return Known()
        latents = self.codec.encode(front.to(self.device, self.dtype)).float()
        count = 1 + (frames - 1) // self.frames
        kept = torch.arange(count, device=latents.device)[:, None, None] < latents.shape[2]
        return Known(F.pad(latents, (0, 0, 0, 0, 0, count - latents.shape[2])), kept)

    def clean(self, x: Tensor, time: Tensor, known: Known) -> tuple[Tensor, Tensor]:
        """x (B, C, F, h, w) with what is given as it is, and the time (B,) of each token (B, T), 0
        where it is given: for networks that were trained with a time of each token."""
        if known.start is None or known.kept is None:
            return x, time
        tokens = known.kept.expand(-1, x.shape[3] // self.patch, x.shape[4] // self.patch)
        x = torch.where(known.kept, known.start.to(x.dtype), x)
        return x, time[:, None] * ~tokens.flatten()

    def decoded(self, latents: Tensor, frames: int, noise: Noise) -> Tensor:
        """Latents (B, C, F, h, w) -> clips (B, 3, frames, H, W), one by one for memory; `noise` draws
        more of it."""
        del frames, noise
        return torch.cat([self.codec.decode(one[None].to(self.dtype)) for one in latents])
