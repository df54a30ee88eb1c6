"""Fine-tuning of open image models, one run for LoRA (Hu et al. 2022), DreamBooth (Ruiz et al.
2023), textual inversion (Gal et al. 2023), ControlNet (Zhang et al. 2023), and all weights of the
denoiser. What each trains and saves is in daedal.train.adapt_methods.

What stays as it is is not in the run's checkpoints; what is trained is fp32. Latents and, where the
text encoders do not learn, what is told of captions are computed once.

Legend: B batch, C channels, h and w latent cells, N pictures.
"""

import os
import random
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from daedal import checkpoints
from daedal.data.pictures import Folder, Parquet, PictureBatches
from daedal.errors import DaedalError
from daedal.processes.imaging import edges, from_pixels, pixels
from daedal.processes.noise import EDM, Level, Parametrisation, noised
from daedal.processes.prompts import literal
from daedal.systems import system_of
from daedal.systems.conditions import Conditions
from daedal.systems.system import Conditioning, Prepared, System, paint, stacked
from daedal.train import parallel
from daedal.train.adapt_methods import METHODS, Method
from daedal.train.pictures import cost, fit, planned, sheet
from daedal.train.recipe.pictures import AdaptRecipe
from daedal.train.start import Start, begin, mark
from daedal.train.trainer import Batch, Objective

# ---- data ----------------------------------------------------------------------------------------


class Pictures:
    """All pictures of the sources one after another, each with its share of the samples."""

    def __init__(self, sources: Sequence[tuple[Folder | Parquet, float]]) -> None:
        self.places = [(source, i) for source, _ in sources for i in range(len(source))]
        self.weights = [
            weight / len(source) for source, weight in sources for _ in range(len(source))
        ]

    def __len__(self) -> int:
        return len(self.places)

    def image(self, index: int) -> Tensor:
        """(1, 3, H, W) in [-1, 1]."""
        source, i = self.places[index]
        return from_pixels(source.picture(i))

    def caption(self, index: int) -> str:
        source, i = self.places[index]
        return source.caption(i)

    def condition(self, index: int, kind: str) -> Tensor:
        """(1, 3, H, W) in [0, 1]: the edges of the picture, or another that the data names."""
        if kind == "edges":
            return edges(self.image(index)).expand(-1, 3, -1, -1)
        source, i = self.places[index]
        return (from_pixels(source.condition(i)) + 1) / 2


def pictures_of(recipe: AdaptRecipe, side: int) -> Pictures:
    column = (
        None if recipe.method != "controlnet" or recipe.condition == "edges" else recipe.condition
    )
    found: list[tuple[Folder | Parquet, float]] = []
    for source in recipe.data.train:
        if not Path(source.path).exists():
            raise DaedalError(
                f"{source.path} is neither a folder of pictures nor a parquet file; give data.train='[{{path: my/pictures}}]'."
            )
        folder = Path(source.path).is_dir()
        found.append(
            (
                Folder(source.path, side, column, source.where)
                if folder
                else Parquet(source.path, side, source.where, column),
                source.weight,
            )
        )
    return Pictures(found)


class Draws(PictureBatches):
    """Batches of numbers of pictures: {"picture": (B,), "prior": (B,), "wording": (B,), -1 where
    the caption is dropped}."""

    def __init__(self, pictures: Pictures, priors: int, recipe: AdaptRecipe, step: int) -> None:
        self.pictures, self.priors, self.rows, self.seed, self.drop, self.step = (
            pictures,
            priors,
            recipe.rows,
            recipe.seed,
            recipe.drop_caption,
            step,
        )

    def batch(self, step: int) -> dict[str, Tensor]:
        rng = random.Random(f"{self.seed}/{step}")
        drawn = rng.choices(range(len(self.pictures)), self.pictures.weights, k=self.rows)
        prior = [rng.randrange(max(1, self.priors)) for _ in drawn]
        wording = [-1 if rng.random() < self.drop else rng.randrange(2**16) for _ in drawn]
        return {
            "picture": torch.tensor(drawn),
            "prior": torch.tensor(prior),
            "wording": torch.tensor(wording),
        }


# ---- the objective -------------------------------------------------------------------------------


def weight(meaning: Parametrisation, level: Level, gamma: float | None) -> Tensor:
    """How much the squared error of the network's output counts, (B, 1, 1, 1): 1, or what makes the
    error of x0 count min(SNR, gamma) (Hang et al. 2023, section 3.4, for whatever the network
    predicts)."""
    alpha, sigma = torch.as_tensor(level.alpha), torch.as_tensor(level.sigma)
    if gamma is None:
        return torch.ones_like(sigma)
    # of x0 in the output
    slope = meaning.denoised(torch.ones_like(sigma), torch.zeros_like(sigma), level)
    return (alpha / sigma).square().clamp(max=gamma) * slope.square()


def errors(
    method: Method,
    latents: Tensor,
    conditioning: Conditioning,
    recipe: AdaptRecipe,
    hint: Tensor | None = None,
) -> Tensor:
    """The error of the output on latents (B, C, h, w) at random levels, (B,)."""
    model, device = method.model, latents.device
    level, meaning = (
        model.training_level(len(latents), latents.shape[2] * latents.shape[3]),
        model.schedule.parametrisation,
    )
    eps = torch.randn(latents.shape) + recipe.offset_noise * torch.randn(*latents.shape[:2], 1, 1)
    eps = eps.to(device)
    x = noised(latents, eps, level)
    prepared = method.prepare(conditioning, Conditions(model.size_of(latents)), hint)
    output = model.predict(
        x.to(model.dtype), torch.as_tensor(level.time).flatten(), prepared
    ).float()[:, : model.channels]
    error = (output - meaning.target(latents, eps, level)).square()
    return (error * weight(meaning, level, recipe.snr_gamma)).mean((1, 2, 3))


def adapt(
    method: Method, pictures: Pictures, priors: Sequence[Path], recipe: AdaptRecipe
) -> Objective:
    """The mean error on the pictures, and with `prior_weight` on the model's own pictures of the
    class (Ruiz et al. 2023, eq. 2)."""
    model = method.model

    @torch.no_grad()
    def encoded(image: Tensor) -> Tensor:
        image = image.to(model.device, next(model.codec.parameters()).dtype)
        return model.codec.encode(image).float().cpu()

    @cache
    def latents(index: int) -> Tensor:
        return encoded(pictures.image(index))

    @cache
    def prior_latents(index: int) -> Tensor:
        return encoded(from_pixels(opened(priors[index])))

    def conditioning(caption: str) -> Conditioning:
        return model.encode([literal(caption)], cut=True)

    @cache
    @torch.no_grad()
    def encoded_once(caption: str) -> Conditioning:
        return {key: value.cpu() for key, value in conditioning(caption).items()}

    def words(said: list[str]) -> Conditioning:
        return stacked(
            [(encoded_once if method.fixed_text else conditioning)(each) for each in said],
            model.device,
        )

    def batch(found: Callable[[int], Tensor], numbers: Tensor) -> Tensor:
        return torch.cat([found(i) for i in numbers.tolist()]).to(model.device)

    def loss(network: nn.Module, part: Batch) -> Tensor:
        pairs = zip(part["picture"].tolist(), part["wording"].tolist(), strict=True)
        said = [
            "" if wording < 0 else method.prompt(pictures.caption(i), wording)
            for i, wording in pairs
        ]
        hint = (
            batch(lambda i: pictures.condition(i, recipe.condition), part["picture"])
            if method.reads_hint
            else None
        )
        total = errors(method, batch(latents, part["picture"]), words(said), recipe, hint).sum()
        if priors:
            of_class = words([str(recipe.class_prompt)] * len(said))
            own = errors(method, batch(prior_latents, part["prior"]), of_class, recipe)
            total = total + recipe.prior_weight * own.sum()
        return total

    return Objective(loss, lambda batch: len(batch["picture"]))


# ---- class pictures ------------------------------------------------------------------------------


def opened(file: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(file) as picture:
        return np.array(picture.convert("RGB"))


def class_pictures(model: System, recipe: AdaptRecipe, side: int, start: Start) -> list[Path]:
    """Pictures of the class prompt by the model before it learns; those that are there stay."""
    from PIL import Image

    keys = ("class_prompt", "seed", "sample_steps", "guidance_scale", "side")
    folder = start.out / f"class-{mark(recipe, *keys, weights=recipe.model.start)}"
    files = [
        folder / f"{i:04d}.png" for i in range(recipe.class_pictures if recipe.class_prompt else 0)
    ]
    for i, file in enumerate(files):
        if start.rank == 0 and not file.exists():
            folder.mkdir(exist_ok=True)
            said, seed = str(recipe.class_prompt), recipe.seed + i
            made = paint(
                model,
                [said],
                [seed],
                side=side,
                steps=recipe.sample_steps,
                guidance_scale=recipe.guidance_scale,
            )
            Image.fromarray(pixels(made)[0]).save(file.with_suffix(".partial"), "png")
            os.replace(file.with_suffix(".partial"), file)
    if start.world > 1:
        torch.distributed.barrier()
    return files


# ---- the run -------------------------------------------------------------------------------------


class Added(nn.Module):
    """What a method trains, as the trainer wants it: the model that it is part of is not among its
    parameters, so neither in checkpoints."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.weights = nn.ParameterList(method.trained())
        self.compute_dtype: torch.dtype | None = None
        self.method = (method,)  # in a tuple: no submodule

    @property
    def layers(self) -> nn.ModuleList:
        return nn.ModuleList([self.method[0].model.network])


def load(recipe: AdaptRecipe, dtype: torch.dtype, device: torch.device) -> System:
    """The frozen model, in the compute dtype; its codec in fp32."""
    folder = Path(checkpoints.resolve(recipe.model.start))
    if folder.is_file():
        raise DaedalError(
            f"{folder} is a single file; fine-tuning starts from a folder: make one with `daedal convert`."
        )
    parts = checkpoints.load_parts(folder, dtype=dtype, device=device)
    for part in parts.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    model = checked(system_of(parts))
    model.codec.float()
    return model


def checked(model: System) -> System:
    """The model, if its loss is known here."""
    if not model.trainable:
        raise DaedalError(
            f"the {type(model).__name__} is one for inpainting, refining, few steps, classes or pixels, which is not fine-tuned here; "
            "start from the base model it was made from."
        )
    if isinstance(model.schedule.parametrisation, EDM):
        raise DaedalError(
            f"{model.schedule.name} is a schedule of EDM, which fine-tuning does not know; start from a model of DDPM or flow levels."
        )
    return model


def checked_side(recipe: AdaptRecipe, model: System) -> int:
    side, multiple = recipe.side or model.defaults["width"], model.codec.factor * model.patch
    if side % multiple:
        raise DaedalError(
            f"side = {side} does not divide into cells of {multiple} pixels; the nearest is {max(1, round(side / multiple)) * multiple}."
        )
    return side


def plan(recipe: AdaptRecipe) -> dict[str, Any]:
    """What a run will take; trains nothing."""
    with torch.device("meta"):
        model = load(recipe, torch.float32, torch.device("meta"))
        method = METHODS[recipe.method](model, recipe)
    side, frozen = (
        checked_side(recipe, model),
        sum(p.numel() for p in model.network.parameters() if not p.requires_grad),
    )
    cells, conditioning = side // model.codec.factor, model.encode(["x"], cut=True)

    def forward(_: Any) -> Tensor:
        hint = torch.empty(1, 3, side, side) if method.reads_hint else None
        prepared = method.prepare(conditioning, Conditions((side, side)), hint)
        return model.predict(torch.empty(1, model.channels, cells, cells), torch.zeros(1), prepared)

    _, flops, kept = cost(lambda: nn.ModuleList([model.network, Added(method)]), forward)
    made = planned(
        recipe, sum(p.numel() for p in method.trained()), flops * method.passes / 3, kept
    )
    return made | {
        "memory_bytes": made["memory_bytes"] + frozen * (2 if made["dtype"] == "bfloat16" else 4)
    }


def run(recipe: AdaptRecipe) -> Path:
    """Train, and write what was learned to `out/model`. Returns that folder."""
    start = begin(recipe)
    model = load(recipe, start.dtype, start.device)
    side = checked_side(recipe, model)
    pictures = pictures_of(recipe, side)
    if (
        recipe.method != "textual_inversion"
        and not recipe.prompt
        and not any(pictures.caption(i) for i in range(len(pictures)))
    ):
        raise DaedalError(
            "the pictures have no captions; write cat.txt beside cat.png, or give a prompt= for all of them."
        )
    priors = class_pictures(model, recipe, side, start)
    method = METHODS[recipe.method](model, recipe)
    network = Added(method)
    cells = side // model.codec.factor
    flops = method.passes * model.network.flops(cells, cells)
    batches = Draws(pictures, len(priors), recipe, start.step)
    fit(
        recipe,
        start,
        network,
        0,
        batches,
        adapt(method, pictures, priors, recipe),
        flops,
        sample=sampling(method, pictures, recipe, side, start),
    )
    if start.rank == 0:
        (start.out / "model").mkdir(exist_ok=True)
        method.save(start.out / "model")
    parallel.finish()
    return start.out / "model"


def sampling(
    method: Method, pictures: Pictures, recipe: AdaptRecipe, side: int, start: Start
) -> Any:
    """Pictures of the recipe's prompts, the same seeds each time; a ControlNet follows the first
    pictures of the data."""
    if not recipe.prompts:
        return None

    def sample(network: Added, step: int) -> str:
        hints = (
            [
                pictures.condition(i % len(pictures), recipe.condition)
                for i in range(len(recipe.prompts))
            ]
            if method.reads_hint
            else None
        )
        hint = torch.cat(hints).to(method.model.device) if hints else None

        def prepare(conditioning: Conditioning, conditions: Conditions) -> Prepared:
            return method.prepare(conditioning, conditions, hint)

        seeds = [recipe.seed + i for i in range(len(recipe.prompts))]
        made = paint(
            method.model,
            recipe.prompts,
            seeds,
            side=side,
            steps=recipe.sample_steps,
            guidance_scale=recipe.guidance_scale,
            prepare=prepare,
        )
        return sheet(start.out, step, [pixels(made)])

    return sample
