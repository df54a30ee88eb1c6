"""Pictures: `load` a model by name and call it.

pipeline = daedal.load("house/image")
picture = pipeline("a red circle left of a blue star", seed=1)
picture.save("scene.png")                                          # the recipe goes into the file
pipeline("a green heart", init="scene.png", mask="mask.png")       # repaint what the mask shows white, keep every other pixel
"""

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from daedal import checkpoints
from daedal import device as machine
from daedal.errors import DaedalError, nearest
from daedal.media import images
from daedal.pipelines.digest import digest
from daedal.processes.imaging import pixels
from daedal.processes.samplers import OnStep, sampler_named

Given = str | Path | np.ndarray  # a picture: a file, or (H, W, 3) uint8


@dataclass(frozen=True)
class ImageParams:
    """Settings of one call. None is the model's own choice (its generation_config.json, or its scheduler)."""

    seed: int | None = None  # picture i of n has seed + i
    n: int = 1
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None  # 1 follows the prompt as trained; more, further away from `negative`
    negative: str = ""
    sampler: str | None = None
    strength: float = 0.75  # with `init`: share of the steps that are run; 1 forgets it
    init: str | None = None
    mask: str | None = None  # white is painted, black is kept


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


class Painter(Protocol):
    """A model behind the pipeline: the house's transformer, or an open checkpoint."""

    multiple: int  # legal sizes
    defaults: dict[str, Any]  # width, height, steps, guidance_scale, sampler

    def paint(self, job: Job, on_step: OnStep | None) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1]."""
        ...

    def preview(self, x0: Tensor, job: Job) -> np.ndarray:
        """The estimate x0 within a step as small pictures (B, h, w, 3) uint8."""
        ...


@dataclass(frozen=True)
class Picture:
    """One finished picture and all that is needed to make it again."""

    pixels: np.ndarray  # (H, W, 3) uint8
    recipe: dict[str, Any]  # model, digest, prompt, settings with the seed
    finish_reason: str = "stop"

    @property
    def logged(self) -> str:
        """What the history keeps of it."""
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()

    @property
    def amount(self) -> int:
        """Denoising steps."""
        return int(self.recipe["settings"]["steps"])

    def save(self, path: str | Path) -> Path:
        """Write PNG, WebP or JPEG by suffix, with the recipe in the metadata."""
        return images.save_image(self.pixels, path, self.recipe)

    def _repr_png_(self) -> bytes:
        return images.encode(self.pixels, "PNG", self.recipe)


class ImagePipeline:
    """A painter behind one call."""

    def __init__(self, painter: Painter, name: str = "model", folder: Path | None = None) -> None:
        self.painter, self.name, self.folder = painter, name, folder

    def __call__(self, prompt: str, *, on_progress: Callable[[int, int], None] | None = None, **settings: Any) -> Picture | list[Picture]:
        """The picture of a prompt; a list of them when n > 1. Settings are those of `ImageParams`; init and mask may also be arrays."""
        results = self.results(prompt, on_progress=on_progress, **settings)
        return results if settings.get("n", 1) > 1 else results[0]

    def results(
        self,
        prompt: str,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        on_preview: Callable[[np.ndarray], None] | None = None,
        **settings: Any,
    ) -> list[Picture]:
        """All n pictures, made side by side. `on_preview` sees the estimate (B, h, w, 3) uint8 after each step."""
        params, job = self.job(prompt, settings)

        def on_step(i: int, x: Tensor, x0: Tensor) -> None:
            if on_progress:
                on_progress(i + 1, job.steps)
            if on_preview:
                on_preview(self.painter.preview(x0, job))

        painted = pixels(self.painter.paint(job, on_step))
        if job.init is not None and job.mask is not None:  # to the last bit, whatever the model did
            painted = np.where(job.mask[None, :, :, None], painted, job.init[None])
        recipe = {"model": self.name, "digest": digest(self.folder) if self.folder else None, "prompt": prompt, "runtime": runtime(self.painter)}
        chosen = {key: value for key, value in asdict(params).items() if value is not None}
        return [Picture(picture, {**recipe, "settings": chosen, "sample": i}) for i, picture in enumerate(painted)]

    def paint_each(self, prompts: list[str], **settings: Any) -> list[Picture]:
        """One picture of each prompt, side by side; picture i has seed + i."""
        chosen, job = self.job(prompts[0], {**settings, "n": len(prompts)})
        painted = pixels(self.painter.paint(replace(job, prompts=prompts), None))
        recipe: dict[str, Any] = {"model": self.name, "settings": asdict(replace(chosen, n=1))}
        return [
            Picture(picture, {**recipe, "prompt": prompt, "settings": {**recipe["settings"], "seed": seed}})
            for picture, prompt, seed in zip(painted, prompts, job.seeds, strict=True)
        ]

    def job(self, prompt: str, settings: dict[str, Any]) -> tuple[ImageParams, Job]:
        """The settings with every None filled in, and the work they mean."""
        if not isinstance(prompt, str) or not prompt.strip():
            raise DaedalError('the prompt is empty; say what to paint, for example "a red circle".')
        init, mask = settings.get("init"), settings.get("mask")
        p = params({**settings, "init": remembered(init), "mask": remembered(mask)})
        d = self.painter.defaults
        picture = None if init is None else opened(init)
        if mask is not None and picture is None:
            raise DaedalError("a mask needs the picture it belongs to; give init= (--init) as well.")
        shape = (d["height"], d["width"]) if picture is None else picture.shape[:2]
        width, height = (snapped(size or shape[1 - i], self.painter.multiple) for i, size in enumerate((p.width, p.height)))
        if picture is not None:
            picture = resized(picture, width, height)
        p = replace(p, width=width, height=height, **{key: d[key] for key in ("steps", "guidance_scale", "sampler") if getattr(p, key) is None})
        p = p if p.seed is not None else replace(p, seed=secrets.randbelow(2**31))
        sampler_named(str(p.sampler))
        painted = None if mask is None or picture is None else opened_mask(mask, picture)
        job = Job(
            [prompt] * p.n, [p.negative] * p.n, [int(p.seed or 0) + i for i in range(p.n)], width, height, int(p.steps or 0),
            float(p.guidance_scale or 0), str(p.sampler), p.strength if picture is not None else 1.0, picture, painted,
        )  # fmt: skip
        return p, job


def params(settings: dict[str, Any]) -> ImageParams:
    known = [field.name for field in fields(ImageParams)]
    for name in settings:
        if name not in known:
            raise DaedalError(f"{name!r} is not a setting of pictures{nearest(name, known)}; settings: {', '.join(known)}.")
    p = ImageParams(**settings)
    for name, low, high in (
        ("n", 1, 256),
        ("steps", 1, 1000),
        ("width", 8, 8192),
        ("height", 8, 8192),
        ("guidance_scale", 0, 100),
        ("seed", 0, 2**62),
    ):
        value = getattr(p, name)
        if value is not None and not low <= value <= high:
            raise DaedalError(f"{name}={value} is out of range; choose {low} to {high}.")
    if not 0 < p.strength <= 1:
        raise DaedalError(f"strength={p.strength} must be above 0 (the picture as it is) and at most 1 (all steps, from noise).")
    return p


def remembered(given: Given | None) -> str | None:
    """How a recipe names a picture that was given: its file and the digest of its content, or the digest alone."""
    if given is None or (isinstance(given, str) and "#" in given):
        return given
    data = given.tobytes() if isinstance(given, np.ndarray) else content(Path(given))
    where = "" if isinstance(given, np.ndarray) else str(Path(given).resolve())
    return f"{where}#{hashlib.sha256(data).hexdigest()}"


def opened(given: Given) -> np.ndarray:
    """(H, W, 3) uint8, from a file, an array, or a name that `remembered` gave, whose file must be what it was."""
    if isinstance(given, np.ndarray):
        if given.ndim != 3 or given.shape[2] != 3 or given.dtype != np.uint8:
            raise DaedalError(f"a picture is an array (height, width, 3) of uint8, and this one is {given.shape} of {given.dtype}.")
        return given
    return images.over(images.open_image(unchanged(given)))


def opened_mask(given: Given, picture: np.ndarray) -> np.ndarray:
    """(H, W) bool of the picture's size, true where to paint."""
    if isinstance(given, np.ndarray):
        if given.shape != picture.shape[:2]:
            raise DaedalError(f"the mask is {given.shape} and the picture {picture.shape[:2]}; they must have one size.")
        return given > (0 if given.dtype == bool else 127)
    return images.open_mask(unchanged(given), picture) >= 0.5


def snapped(size: int, multiple: int) -> int:
    """The nearest legal size."""
    return max(multiple, (size + multiple // 2) // multiple * multiple)


def resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture at another size; the same array where it has it."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DaedalError(f"{path} cannot be read ({error.strerror}); give an image file.") from None


def unchanged(given: str | Path) -> Path:
    path, mark, wanted = str(given).rpartition("#")
    if not mark:
        return Path(given)
    if not path or hashlib.sha256(content(Path(path))).hexdigest() != wanted:
        raise DaedalError(f"{path or 'the picture given as an array'} is no longer what the recipe used; give init= and mask= again.")
    return Path(path)


def runtime(painter: Painter) -> dict[str, Any]:
    """What the last bits of a picture may depend on, beside the weights."""
    module = next(value for value in vars(painter).values() if isinstance(value, torch.nn.Module))
    weight = next(module.parameters())
    return {"device": weight.device.type, "dtype": str(weight.dtype).removeprefix("torch."), "bits": [], "threads": torch.get_num_threads()}


def reproduce(pipeline: ImagePipeline, recipe: dict[str, Any]) -> Picture:
    """A picture again from its recipe: its whole batch is painted, so that every product has the size it had."""
    return pipeline.results(recipe["prompt"], **recipe["settings"])[recipe["sample"]]


def paints(folder: Path) -> bool:
    """Whether a folder holds an image model."""
    config = folder / "config.json"
    return (folder / "model_index.json").exists() or (config.exists() and "_class_name" in json.loads(config.read_text()))


def load(name_or_folder: str | Path, device: str = "auto", dtype: str = "auto") -> ImagePipeline:
    """A pipeline for a house model, a folder that diffusers saved, or a Hub name. `dtype` auto computes in bf16 where the device has units for
    it, else in fp32."""
    folder = Path(checkpoints.resolve(name_or_folder))
    where = machine.pick_device(device)
    compute = machine.compute_dtype(dtype, where)
    painter: Painter
    if (folder / "model_index.json").exists():
        from daedal.pipelines.open_image import OpenPainter

        painter = OpenPainter.load(folder, where, compute)
    else:
        from daedal.pipelines.house_image import HousePainter

        painter = HousePainter.load(folder, where, compute)
    return ImagePipeline(painter, str(name_or_folder), folder)


def generation_config(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    return json.loads(path.read_text()) if path.exists() else {}


def file_name(prompt: str) -> str:
    """A file name for a prompt."""
    words = "".join(c if c.isalnum() else " " for c in prompt.lower()).split()
    return "-".join(words)[:60].rstrip("-") or "picture"
