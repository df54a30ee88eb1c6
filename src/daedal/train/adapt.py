"""Fine-tuning of open image models, one run for LoRA (Hu et al. 2022), DreamBooth (Ruiz et al.
2023), textual inversion (Gal et al. 2023), ControlNet (Zhang et al. 2023), and all weights of the
denoiser. What each trains and saves is in daedal.train.adapt_methods.

What stays as it is is not in the run's checkpoints; what is trained is fp32. Latents and, where the
text encoders do not learn, what is told of captions are computed once.

Legend: B batch, C channels, h and w latent cells, N pictures."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from daedal import checkpoints
from daedal.data.pictures import DrawnBatches, Folder, Parquet
from daedal.errors import DaedalError
from daedal.media import images
from daedal.processes.imaging import edges, from_pixels, pixels
from daedal.processes.noise import EDM, Level, Parametrisation, noised
from daedal.processes.prompts import literal
from daedal.systems import system_of
from daedal.systems.conditions import Conditions
from daedal.systems.system import Conditioning, System, paint, stacked
from daedal.train.adapt_methods import METHODS, Method
from daedal.train.pictures import PictureTask, cost, sheet
from daedal.train.recipe.pictures import AdaptRecipe
from daedal.train.start import Start, mark
from daedal.train.task import Cost
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
    drawn = recipe.method != "controlnet" or recipe.condition == "edges"
    column = None if drawn else recipe.condition
    found: list[tuple[Folder | Parquet, float]] = []
    for source in recipe.data.train:
        if not Path(source.path).exists():
            raise DaedalError(
                f"{source.path} is neither a folder of pictures nor a parquet file; give data.train='[{{path: my/pictures}}]'."
            )
        kind = Folder if Path(source.path).is_dir() else Parquet
        opened = kind(source.path, side, where=source.where, column=column)
        found.append((opened, source.weight))
    return Pictures(found)


class Draws(DrawnBatches):
    """Batches of numbers of pictures: {"picture": (B,), "prior": (B,), "wording": (B,), -1 where
    the caption is dropped}."""

    def __init__(self, pictures: Pictures, priors: int, recipe: AdaptRecipe, step: int) -> None:
        self.pictures, self.priors, self.drop = pictures, priors, recipe.drop_caption
        self.rows, self.seed, self.step = recipe.rows, recipe.seed, step

    def batch(self, step: int) -> dict[str, Tensor]:
        rng = random.Random(f"{self.seed}/{step}")
        drawn = rng.choices(range(len(self.pictures)), self.pictures.weights, k=self.rows)
        prior = [rng.randrange(max(1, self.priors)) for _ in drawn]
        wording = [-1 if rng.random() < self.drop else rng.randrange(2**16) for _ in drawn]
        batch = {"picture": drawn, "prior": prior, "wording": wording}
        return {key: torch.tensor(numbers) for key, numbers in batch.items()}


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
    model, meaning = method.model, method.model.schedule.parametrisation
    level = model.training_level(len(latents), latents.shape[2] * latents.shape[3])
    eps = torch.randn(latents.shape) + recipe.offset_noise * torch.randn(*latents.shape[:2], 1, 1)
    eps = eps.to(latents.device)
    x = noised(latents, eps, level)
    prepared = method.prepare(conditioning, Conditions(model.size_of(latents)), hint)
    times = torch.as_tensor(level.time).flatten()
    output = model.predict(x.to(model.dtype), times, prepared).float()[:, : model.channels]
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
        return encoded(from_pixels(images.open_image(priors[index])))

    def shown(index: int) -> Tensor:
        return pictures.condition(index, recipe.condition)

    def conditioning(caption: str) -> Conditioning:
        return model.encode([literal(caption)], cut=True)

    @cache
    @torch.no_grad()
    def encoded_once(caption: str) -> Conditioning:
        return {key: value.cpu() for key, value in conditioning(caption).items()}

    def words(said: list[str]) -> Conditioning:
        encode = encoded_once if method.fixed_text else conditioning
        return stacked([*map(encode, said)], model.device)

    def batch(found: Callable[[int], Tensor], numbers: Tensor) -> Tensor:
        return torch.cat([found(i) for i in numbers.tolist()]).to(model.device)

    def loss(network: nn.Module, part: Batch) -> Tensor:
        pairs = zip(part["picture"].tolist(), part["wording"].tolist(), strict=True)
        said = ["" if k < 0 else method.prompt(pictures.caption(i), k) for i, k in pairs]
        hint = batch(shown, part["picture"]) if method.reads_hint else None
        total = errors(method, batch(latents, part["picture"]), words(said), recipe, hint).sum()
        if priors:
            of_class = words([str(recipe.class_prompt)] * len(said))
            own = errors(method, batch(prior_latents, part["prior"]), of_class, recipe)
            total = total + recipe.prior_weight * own.sum()
        return total

    return Objective(loss, lambda batch: len(batch["picture"]))


# ---- class pictures ------------------------------------------------------------------------------


def class_pictures(model: System, recipe: AdaptRecipe, side: int, start: Start) -> list[Path]:
    """Pictures of the class prompt by the model before it learns; those that are there stay."""
    keys = ("class_prompt", "seed", "sample_steps", "guidance_scale", "side")
    folder = start.out / f"class-{mark(recipe, *keys, weights=recipe.model.start)}"
    count = recipe.class_pictures if recipe.class_prompt else 0
    files = [folder / f"{i:04d}.png" for i in range(count)]
    for i, file in enumerate(files):
        if start.rank == 0 and not file.exists():
            folder.mkdir(exist_ok=True)
            made = painted(model, recipe, side, [str(recipe.class_prompt)], recipe.seed + i)
            images.save_image(made[0], file)
    if start.world > 1:
        torch.distributed.barrier()
    return files


def painted(
    model: System, recipe: AdaptRecipe, side: int, prompts: list[str], seed: int, **options: Any
) -> np.ndarray:
    """Pictures (N, H, W, 3) uint8 with the recipe's settings, the first of this seed."""
    seeds = [seed + i for i in range(len(prompts))]
    settings = {"steps": recipe.sample_steps, "guidance_scale": recipe.guidance_scale}
    return pixels(paint(model, prompts, seeds, side=side, **settings, **options))


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


class Adapt(PictureTask):
    """`out/model` holds what was learned, as diffusers has it."""

    recipe_type, width = AdaptRecipe, 0  # rates do not follow from a width

    def build(self) -> None:
        r = self.recipe
        model = load(r, self.start.dtype, self.start.device)
        self.side = checked_side(r, model)
        self.pictures = pictures_of(r, self.side)
        captions = map(self.pictures.caption, range(len(self.pictures)))
        if r.method != "textual_inversion" and not r.prompt and not any(captions):
            raise DaedalError(
                "the pictures have no captions; write cat.txt beside cat.png, or give a prompt= for all of them."
            )
        priors = class_pictures(model, r, self.side, self.start)
        self.method = METHODS[r.method](model, r)
        self.network = Added(self.method)
        cells = self.side // model.codec.factor
        self.flops = r.rows * self.method.passes * model.network.flops(cells, cells)
        self.batches = Draws(self.pictures, len(priors), r, self.start.step)
        self.objective = adapt(self.method, self.pictures, priors, r)

    def sample(self, network: Added, step: int) -> str:
        """Pictures of the recipe's prompts, the same seeds each time; a ControlNet follows the
        first pictures of the data."""
        r, method, hint = self.recipe, self.method, None
        if not r.prompts:
            return ""
        if method.reads_hint:
            places = [i % len(self.pictures) for i in range(len(r.prompts))]
            shown = [self.pictures.condition(i, r.condition) for i in places]
            hint = torch.cat(shown).to(method.model.device)
        prepare = partial(method.prepare, hint=hint)
        made = painted(method.model, r, self.side, r.prompts, r.seed, prepare=prepare)
        return sheet(self.start.out, step, [made])

    def save(self, state: dict[str, Tensor]) -> None:
        self.folder.mkdir(exist_ok=True)
        self.method.save(self.folder)

    def cost(self, dtype: torch.dtype) -> Cost:
        """With what stays as it is, in the dtype it computes in."""
        found, network = super().cost(dtype), self.method.model.network
        frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
        return replace(found, memory=found.memory + frozen * dtype.itemsize)

    def sample_cost(self) -> tuple[int, float, int]:
        with torch.device("meta"):
            model = load(self.recipe, torch.float32, torch.device("meta"))
            self.method = method = METHODS[self.recipe.method](model, self.recipe)
        side = checked_side(self.recipe, model)
        cells, conditioning = side // model.codec.factor, model.encode(["x"], cut=True)

        def forward(_: Any) -> Tensor:
            hint = torch.empty(1, 3, side, side) if method.reads_hint else None
            prepared = method.prepare(conditioning, Conditions((side, side)), hint)
            latents = torch.empty(1, model.channels, cells, cells)
            return model.predict(latents, torch.zeros(1), prepared)

        _, flops, kept = cost(lambda: nn.ModuleList([model.network, Added(method)]), forward)
        return sum(p.numel() for p in method.trained()), flops * method.passes / 3, kept
