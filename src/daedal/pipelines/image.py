"""Pictures: `load` a model by name and call it.

pipeline = daedal.load("house/image")
picture = pipeline("a red circle left of a blue star", seed=1)
picture.save("scene.png")  # the recipe goes into the file
pipeline("a green heart", init="scene.png", mask="mask.png")  # repaints what the mask has white
"""

import json
import secrets
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daedal import checkpoints
from daedal import device as machine
from daedal.data.recaption import expanded
from daedal.engine.runtime import Generation, GeneratorLane
from daedal.engine.store import STORE
from daedal.errors import DaedalError, nearest
from daedal.media import images
from daedal.pipelines import given, text
from daedal.pipelines.gan import GanPainter
from daedal.pipelines.house_image import HousePainter
from daedal.pipelines.image_params import IMAGE, ImageParams
from daedal.pipelines.image_result import Picture, Progress
from daedal.pipelines.medium import Pipeline, SteppedHandle
from daedal.pipelines.open_image import OpenPainter
from daedal.pipelines.painter import CHOICES, EXTRAS, Job, Painter, enlarged, paintable, snapped
from daedal.pipelines.place import located
from daedal.pipelines.prior import PriorPainter
from daedal.pipelines.remote_image import RemoteImagePipeline
from daedal.processes.imaging import LIKE, pixels
from daedal.processes.samplers import sampler_named
from daedal.settings import read


class ImagePipeline(Pipeline):
    """A painter behind one call. Settings are those of `ImageParams`; init, mask and reference may
    also be arrays."""

    medium = IMAGE

    def __init__(
        self,
        painter: Painter,
        name: str = "model",
        folder: Path | None = None,
        loading: dict[str, Any] | None = None,
    ) -> None:
        self.painter, self.name, self.folder, self.loading = painter, name, folder, loading or {}
        self.lane = GeneratorLane()

    def start(
        self, prompt: str, *, client: str = "", priority: int = 0, **settings: Any
    ) -> "Painting":
        remarks, multiple = [], self.painter.multiple
        if writer := settings.pop("expand", None):
            prompt = longer(prompt, writer)
            remarks.append(f"painting {prompt!r}")
        if size := settings.pop("size", None):
            width, height, remark = images.parse_size(size, multiple)
            settings |= {"width": width, "height": height}
            remarks.append(remark)
        params, job = self.job(prompt, settings)
        remarks = [*filter(None, (*remarks, self.painter.remark(prompt))), *job.remarks]
        return Painting(self, prompt, params, job, client, priority, tuple(remarks))

    def runtime(self) -> dict[str, Any]:
        held = vars(self.painter).values()
        module = next(value for value in held if isinstance(value, torch.nn.Module))
        return machine.runtime_of(next(module.parameters())) | {"loading": self.loading}

    def paint_each(self, prompts: list[str], **settings: Any) -> list[Picture]:
        """One picture of each prompt, side by side; picture i has seed + i."""
        chosen, job = self.job(prompts[0], {**settings, "n": len(prompts)})
        painted = Painting(self, prompts[0], chosen, replace(job, prompts=prompts)).pixels()
        made = []
        for picture, prompt, seed in zip(painted, prompts, job.seeds, strict=True):
            noted = asdict(replace(chosen, n=1, seed=seed))
            recipe = {"model": self.name, "prompt": prompt, "settings": noted}
            made.append(Picture(recipe, "stop", picture, job.steps))
        return made

    def job(self, prompt: str, settings: dict[str, Any]) -> tuple[ImageParams, Job]:
        """The settings with every None filled in, and the work they mean."""
        if not isinstance(prompt, str) or not prompt.strip():
            raise DaedalError('the prompt is empty; say what to paint, for example "a red circle".')
        asked_for = [name for name in EXTRAS if is_given(settings.get(name))]
        if unfit := [name for name in asked_for if name not in self.painter.takes]:
            takes = ", ".join(sorted(self.painter.takes)) or "none of them"
            raise DaedalError(
                f"{self.name} cannot be given {unfit[0]}; of {', '.join(EXTRAS)} it takes {takes}."
            )
        asked, d = noted(settings), self.painter.defaults
        asked = replace(asked, then=d.get("then", ()) if asked.then is None else asked.then)
        canvas = self.canvas(asked, settings.get("init"), settings.get("mask"))
        picture, width, height = canvas.picture, canvas.width, canvas.height
        own = {key: d[key] for key in CHOICES if getattr(asked, key) is None}
        p = replace(asked, width=width, height=height, **own)
        p = p if p.seed is not None else replace(p, seed=secrets.randbelow(2**31))
        sampler_named(str(p.sampler))
        job = Job(
            [prompt] * p.n, [p.negative] * p.n, [int(p.seed or 0) + i for i in range(p.n)], width, height, int(p.steps or 0),
            float(p.guidance_scale or 0), str(p.sampler), strength_of(p) if picture is not None else 1.0, picture, canvas.mask, asked,
            extras_of(p, settings.get("reference"), width, height), canvas.remarks,
        )  # fmt: skip
        return p, job

    def canvas(
        self, p: ImageParams, init: given.Given | None, mask: given.Given | None
    ) -> "Canvas":
        """What is painted on, and how large it legally is."""
        if mask is not None and init is None:
            raise DaedalError(
                "a mask needs the picture it belongs to; give init= (--init) as well."
            )
        if mask is not None and (self.painter.upscales or p.then):
            raise DaedalError(
                "a model that enlarges a picture, or one that follows another, takes no mask; leave it out, or paint in two calls."
            )
        picture = None if init is None else given.opened(init)
        shape = (self.painter.defaults["height"], self.painter.defaults["width"])
        if p.extend:
            if picture is None or mask is not None or self.painter.upscales or p.then:
                raise DaedalError(
                    "extend needs a picture (init), brings its own mask, and goes with one model that does not enlarge; leave the rest out."
                )
            picture, mask = given.extended(picture, p.extend, self.painter.multiple)
            height, width = picture.shape[:2]
            if (p.width or width, p.height or height) != (width, height):
                raise DaedalError(
                    f"extend makes the picture {width}x{height}, and {p.width}x{p.height} was asked for; leave the size out."
                )
            return Canvas(picture, mask, width, height)
        remarks, own = [], shape
        if picture is not None and self.painter.upscales:
            shape = enlarged(picture, own, self.painter.scale)
        elif picture is not None:
            shape = paintable(picture, own)
            if shape != picture.shape[:2] and not (p.width or p.height):
                (h, w), (high, wide) = picture.shape[:2], shape
                remarks.append(
                    f"the picture of {w}x{h} is painted at about {wide}x{high}, this model's size; give a size for another."
                )
        width, height = (
            snapped(size or shape[1 - i], self.painter.multiple)
            for i, size in enumerate((p.width, p.height))
        )
        painted = None
        if mask is not None and picture is not None:
            painted, remark = given.opened_mask(mask, picture.shape[:2], width, height)
            remarks.append(remark)
        if picture is not None and not self.painter.upscales:
            picture = given.resized(picture, width, height)
        return Canvas(picture, painted, width, height, tuple(filter(None, remarks)))


@dataclass(frozen=True)
class Canvas:
    """The picture to start from or to enlarge, (h, w, 3) uint8; the mask (height, width) bool, true
    where it is painted anew; the size that is painted; what was done to what was given."""

    picture: np.ndarray | None
    mask: np.ndarray | None
    width: int
    height: int
    remarks: tuple[str, ...] = ()


class Painting(SteppedHandle):
    """Pictures under way."""

    def __init__(
        self,
        pipeline: ImagePipeline,
        prompt: str,
        params: ImageParams,
        job: Job,
        client: str = "",
        priority: int = 0,
        remarks: tuple[str, ...] = (),
    ) -> None:
        self.pipeline, self.prompt, self.params = pipeline, prompt, params
        self.job, self.remarks = job, remarks
        weights = (job.extras.loras, job.extras.embeddings)
        generation = Generation(pipeline.painter.paint(job), weights, client, priority)
        super().__init__(pipeline.lane.submit(generation))

    def event(self, state: Any) -> Progress:
        i, _, x0 = state
        return Progress(i + 1, self.job.steps, partial(self.pipeline.painter.preview, x0, self.job))

    def pixels(self) -> np.ndarray:
        """The finished pictures (B, H, W, 3) uint8."""
        made, job = self.value(), self.job
        if not torch.isfinite(made).all():
            raise DaedalError(
                "the decoder made numbers that are NaN or infinite; load the model with dtype fp32, "
                "or check its weights."
            )
        painted = pixels(made)
        if job.init is not None and job.mask is not None:  # to the last bit, whatever the model did
            painted = np.where(job.mask[None, :, :, None], painted, job.init[None])
        return painted

    def results(self) -> list[Picture]:
        pipeline, params, job, painted = self.pipeline, self.params, self.job, self.pixels()
        if params.then:  # where each model has its own choice, it must have it again
            params = replace(params, **{key: getattr(job.params, key) for key in CHOICES})
        settings = {key: value for key, value in asdict(params).items() if value not in (None, ())}
        recipe = pipeline.recipe(self.prompt, settings)
        return [
            Picture(
                recipe | {"sample": i}, "stop", picture, job.steps, joules=self.share(len(painted))
            )
            for i, picture in enumerate(painted)
        ]


def longer(prompt: str, model: str) -> str:
    """The prompt as a language model fills it in (the idea of DALL-E 3's recaptioning)."""
    with STORE.lease(("writer", model), lambda: text.load(model)) as writer:
        return expanded(prompt, lambda asked: str(writer(asked, max_tokens=80, temperature=0)))


def is_given(value: Any) -> bool:
    return isinstance(value, np.ndarray) or bool(value)


def noted(settings: dict[str, Any]) -> ImageParams:
    """The settings as a recipe keeps them: files with their digests."""
    files: dict[str, Any] = {
        name: given.remembered(settings.get(name)) for name in ("init", "mask", "reference")
    }
    several = {"control": given.remembered_control, "lora": given.remembered_lora}
    for name, note in {**several, "embedding": given.remembered}.items():
        files[name] = tuple(map(note, given.listed(settings.get(name))))
    then = settings.get("then")
    files["then"] = None if then is None else tuple(given.listed(then))
    return params({**settings, **files})


def extras_of(
    p: ImageParams, reference: given.Given | None, width: int, height: int
) -> given.Extras:
    """What the settings name, opened."""
    files = [given.scaled_file(text) for text in p.lora]
    return given.Extras(
        controls=tuple(given.opened_control(text, width, height) for text in p.control), reference=None if reference is None else given.opened(reference),
        loras=tuple((given.unchanged(file), scale) for file, scale in files), embeddings=tuple(given.unchanged(file) for file in p.embedding),
    )  # fmt: skip


def params(settings: dict[str, Any]) -> ImageParams:
    p = read(ImageParams, settings, "pictures")
    if p.strength is not None and not 0 < p.strength <= 1:
        raise DaedalError(
            f"strength={p.strength} must be above 0 (the picture as it is) and at most 1 (all steps, from noise)."
        )
    if p.like not in LIKE:
        raise DaedalError(
            f"like={p.like!r} is not a tool whose noise is known{nearest(p.like, list(LIKE))}; choose from {', '.join(LIKE)}."
        )
    return p


def strength_of(p: ImageParams) -> float:
    return p.strength if p.strength is not None else 1.0 if p.extend else 0.75


def holds(folder: Path) -> bool:
    """Whether a folder, or a single file, holds an image model."""
    config, marks = folder / "config.json", ("model_index.json", "picture.json")
    if folder.is_file() or any((folder / name).exists() for name in marks) or is_cascade(folder):
        return True
    return config.exists() and "_class_name" in json.loads(config.read_text())


def is_cascade(folder: Path) -> bool:
    """Whether it is a folder of models that follow one another."""
    return not (folder / "config.json").exists() and any(folder.glob("*/model_index.json"))


def load(name_or_folder: str | Path, device: str = "auto", dtype: str = "auto") -> ImagePipeline:
    """A pipeline for a house model, a folder that diffusers saved (or one of several, which follow
    one another), a Hub name, or a single file of an open model. `dtype` auto computes in bf16 where
    the device has units for it, else in fp32."""
    folder = located(name_or_folder)
    where = machine.pick_device(device)
    compute = machine.compute_dtype(dtype, where)
    loading = {"device": where.type, "dtype": dtype}
    painter = painter_of(folder, name_or_folder, where, compute)
    return ImagePipeline(painter, str(name_or_folder), folder, loading)


def connect(server: str, model: str) -> Pipeline:
    """A model of a Daedal server."""
    return RemoteImagePipeline(server, model)


def painter_of(folder: Path, name: str | Path, device: torch.device, dtype: torch.dtype) -> Painter:
    """The painter of what a folder, or a single file, holds."""
    if (folder / "model_index.json").exists() or folder.is_file() or is_cascade(folder):
        return OpenPainter.load(folder, device, dtype)
    if not holds(folder):
        raise DaedalError(f"{name} is not an image model; for text there is `daedal text`.")
    if (folder / "picture.json").exists():
        return PriorPainter.load(folder, device)
    if str(checkpoints.read_config(folder)["_class_name"]).startswith(("StyleGAN", "BigGAN")):
        return GanPainter.load(folder, device)
    return HousePainter.load(folder, device, dtype)
