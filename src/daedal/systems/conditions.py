"""Pictures as conditions: a ControlNet or T2I-Adapter with what it is shown, an IP-Adapter with
what it reads of a reference, the frames that a clip is given, and what an inpainting network must be
given."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from daedal.errors import DaedalError, nearest

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Control:
    """A network and the picture it reads, (1, 3, H, W) in [-1, 1]."""

    kind: str
    network: Any
    picture: Tensor
    scale: float

    @property
    def name(self) -> str:
        return type(self.network).__name__

    @property
    def positive(self) -> Tensor:
        """The picture in [0, 1], (1, channels, H, W), grey for networks that read one channel."""
        picture = (self.picture + 1) / 2
        if self.name == "T2IAdapter" and self.network.config.in_channels == 1:
            luma = picture.new_tensor([0.299, 0.587, 0.114])[:, None, None]
            return (picture * luma).sum(1, keepdim=True)
        return picture

    def check(self, network: Any, keys: tuple[str, ...]) -> "Control":
        """The control, if its config agrees with the network's in these keys."""
        for key in keys:
            mine, wanted = getattr(self.network.config, key), getattr(network.config, key)
            if mine != wanted:
                differ = f"{key} {mine}, this one has {wanted}"
                raise DaedalError(
                    f"the {self.kind} network is for another model ({differ}); take one made for this model.",
                )
        return self


@dataclass(frozen=True)
class Reference:
    """An IP-Adapter and what it reads of the picture: (1, ...), and of no picture."""

    adapter: Any
    embeds: Tensor
    nothing: Tensor
    scale: float

    def rows(self, positive: int, negative: int) -> Tensor:
        """One a prompt; negative prompts see no picture."""
        shown, hidden = self.embeds, self.nothing
        return torch.cat(
            [shown.expand(positive, *shown.shape[1:]), hidden.expand(negative, *hidden.shape[1:])]
        )


@dataclass(frozen=True)
class Known:
    """The frames that a clip is given, as its network reads them: latents `start` (1, C, F, h, w),
    given where `kept` (F, 1, 1), or what stands `beside` all latents (1, C', F, h, w)."""

    start: Tensor | None = None
    kept: Tensor | None = None
    beside: Tensor | None = None


NOTHING = Known()


@dataclass(frozen=True)
class Conditions:
    """What a picture or a clip is asked for beside its prompts. The last `negatives` rows of what is
    told are of negative prompts. `pictures` (1, 3, H, W) in [-1, 1] are for networks that read one
    themselves; `known` and `rate`, frames a second, are of clips."""

    size: tuple[int, int]  # H, W in pixels
    guidance_scale: float = 1.0
    negatives: int = 0
    noise_level: int | None = None
    controls: Sequence[Control] = ()
    reference: Reference | None = None
    pictures: Sequence[Tensor] = ()
    seconds: float = 0.0  # of a sound
    known: Known = NOTHING
    rate: float = 0.0


def known_kind(kind: str, known: Iterable[str]) -> str:
    """The kind of a control picture, if the model knows it."""
    names = sorted(known)
    if kind not in names:
        near = nearest(kind, names)
        raise DaedalError(
            f"control {kind!r} is not a kind this model knows{near}; it knows {', '.join(names)}."
        )
    return kind


def inpainted(init: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """What an inpainting model must be given."""
    if init is None or mask is None:
        raise DaedalError("this is an inpainting model; give init= and mask= (--init, --mask).")
    return init, mask


def summed(items: list[Any]) -> Any:
    """Their sum with +, None of none."""
    total = None
    for item in items:
        total = item if total is None else total + item
    return total


def for_clip(picture: np.ndarray, side: int) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, side, side): the shorter side resized, the middle cut out,
    normalised (Radford et al. 2021)."""
    height, width = picture.shape[:2]
    tall = width <= height
    size = (side, int(side * height / width)) if tall else (int(side * width / height), side)
    image = np.array(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    middle = torch.from_numpy(image[top : top + side, left : left + side]).permute(2, 0, 1)
    mean, std = (torch.tensor(each)[:, None, None] for each in (CLIP_MEAN, CLIP_STD))
    return ((middle.float() / 255 - mean) / std)[None]
