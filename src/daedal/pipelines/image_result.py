"""What a picture pipeline yields and returns."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daedal.media import images, terminal
from daedal.pipelines.image_params import IMAGE
from daedal.pipelines.medium import Result


@dataclass(frozen=True)
class Picture(Result):
    """One finished picture."""

    medium = IMAGE
    pixels: np.ndarray  # (H, W, 3) uint8
    steps: int

    @property
    def logged(self) -> str:
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()

    @property
    def amount(self) -> int:
        return self.steps

    def save(self, path: str | Path) -> Path:
        """Write PNG, WebP or JPEG by suffix, with the recipe in the metadata."""
        return images.save_image(self.pixels, path, self.recipe)

    @classmethod
    def show(cls, results: list[Any]) -> None:
        terminal.show(images.grid([picture.pixels for picture in results]))

    def _repr_png_(self) -> bytes:
        return images.encode(self.pixels, "PNG", self.recipe)


@dataclass(frozen=True)
class Progress:
    """A step of a painting: how many of how many, and the estimate of the pictures within it."""

    done: int
    total: int
    preview: Callable[[], np.ndarray]  # (B, h, w, 3) uint8, small
