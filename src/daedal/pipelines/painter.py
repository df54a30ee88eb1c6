"""What a picture pipeline asks of a model, and what a model behind it is: a job and a painter."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from daedal.pipelines import given
from daedal.pipelines.image_params import ImageParams
from daedal.processes.samplers import Steps

CHOICES = ("steps", "guidance_scale", "sampler")  # of a model, where None
# times the pixels of a model's own size, from which a picture is not painted at its own
FAR_LARGER = 4
EXTRAS = ("control", "reference", "lora", "embedding", "then")


@dataclass(frozen=True)
class Job:
    """What a model is asked for, checked and complete: sizes legal, pictures open."""

    prompts: list[str]
    negatives: list[str]
    seeds: list[int]
    width: int
    height: int
    steps: int
    guidance_scale: float
    sampler: str
    strength: float
    init: np.ndarray | None  # (H, W, 3) uint8
    mask: np.ndarray | None  # (H, W) bool, true where painted
    params: ImageParams  # as they were asked for
    extras: given.Extras
    remarks: tuple[str, ...] = ()  # on what was given


class Painter(Protocol):
    """A model behind the pipeline: the house's transformer, or an open checkpoint."""

    multiple: int  # legal sizes
    defaults: dict[str, Any]  # width, height, steps, guidance_scale, sampler
    takes: frozenset[str]  # of EXTRAS
    upscales: bool  # it paints `init` larger, and does not start from it:
    scale: int | None  # so many times; None: to its own size

    def paint(self, job: Job) -> Steps:
        """Steps that return pictures (B, 3, H, W) in [-1, 1]. They may be run between the steps of
        other jobs of equal LoRAs and words."""
        ...

    def preview(self, x0: Tensor, job: Job) -> np.ndarray:
        """The estimate x0 within a step as small pictures (B, h, w, 3) uint8."""
        ...

    def remark(self, prompt: str) -> str:
        """What the model does not read of a prompt, as a sentence; empty where it reads all."""
        ...


def enlarged(picture: np.ndarray, wanted: tuple[int, int], times: int | None) -> tuple[int, int]:
    """(height, width) of a picture that grows so many times, or until its shorter side is that of
    the size wanted."""
    height, width = picture.shape[:2]
    scale = times or min(wanted) / min(height, width)
    return round(height * scale), round(width * scale)


def paintable(picture: np.ndarray, own: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which a picture is painted: its own, or of its shape with as many pixels
    as the model's own (h, w) where it is far larger."""
    height, width = picture.shape[:2]
    share = own[0] * own[1] / (height * width)
    if share >= 1 / FAR_LARGER:
        return height, width
    return round(height * share**0.5), round(width * share**0.5)


def snapped(size: int, multiple: int) -> int:
    """The nearest legal size."""
    return max(multiple, (size + multiple // 2) // multiple * multiple)


def one_step(side: int, guidance_scale: float) -> dict[str, Any]:
    """The defaults of a model that makes pictures of side x side at once."""
    size = {"width": side, "height": side, "steps": 1}
    return size | {"guidance_scale": guidance_scale, "sampler": "euler"}


def generation_config(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    return json.loads(path.read_text()) if path.exists() else {}
