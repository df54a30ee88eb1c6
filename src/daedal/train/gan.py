"""GANs: StyleGAN2, StyleGAN3 and BigGAN on pictures, with R3GAN's loss and gradient penalties,
adaptive augmentation and path-length regularisation.

One module holds both sides, so the one trainer and its one backward pass train them
(daedal.train.adversarial). Classes, where there are any, are words: a picture's class is the first
of them that its caption holds.

Legend: B batch, C channels, Z width of z, W width of styles.
"""

import json
import math
import random
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from daedal import checkpoints
from daedal.data.pictures import PictureBatches, Source
from daedal.networks.biggan import (
    BigGANConfig,
    BigGANDiscriminator,
    BigGANDiscriminatorConfig,
    BigGANGenerator,
    orthogonality,
)
from daedal.networks.stylegan import (
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    StyleGANConfig,
    StyleGANDiscriminatorConfig,
)
from daedal.networks.stylegan3 import StyleGAN3Config, StyleGAN3Generator
from daedal.nn.cost import count_flops
from daedal.processes.imaging import pixels
from daedal.systems.gan import Gan
from daedal.train import parallel
from daedal.train.adversarial import GAMES, duel
from daedal.train.pictures import clean, fit, planned, sheet, sources
from daedal.train.recipe.pictures import GanRecipe
from daedal.train.start import begin
from daedal.train.trainer import Batch, Objective


class Match(nn.Module):
    """Generator, discriminator, and what training keeps beside them: how often pictures are
    augmented, and the mean path length."""

    def __init__(self, recipe: GanRecipe) -> None:
        super().__init__()
        self.layers, self.compute_dtype = nn.ModuleList(), None
        count, side, options = len(recipe.classes), recipe.side, recipe.options
        self.generator: Any
        self.discriminator: Any
        if recipe.kind == "biggan":
            shared = {"resolution": side, "n_classes": max(1, count)}
            self.generator = BigGANGenerator(BigGANConfig(**shared, **options))
            self.discriminator = BigGANDiscriminator(
                BigGANDiscriminatorConfig(**shared, **recipe.critic_options)
            )
        else:
            shared = {"img_resolution": side, "c_dim": count}
            alias_free = recipe.kind == "stylegan3"
            self.generator = (
                StyleGAN3Generator(StyleGAN3Config(**shared, **options))
                if alias_free
                else StyleGAN2Generator(StyleGANConfig(**shared, **options))
            )
            common = {
                key: value
                for key, value in options.items()
                if key in {f.name for f in fields(StyleGANDiscriminatorConfig)}
            }
            self.discriminator = StyleGAN2Discriminator(
                StyleGANDiscriminatorConfig(**shared, **{**common, **recipe.critic_options})
            )
        self.generator.init_weights(recipe.seed)
        self.discriminator.init_weights(recipe.seed + 1)
        self.augment: Tensor
        self.path: Tensor
        self.register_buffer("augment", torch.zeros(()))
        self.register_buffer("path", torch.zeros(()))

    @property
    def gan(self) -> Gan:
        return Gan(self.generator)


# ---- augmentation --------------------------------------------------------------------------------


def augmented(x: Tensor, chance: float) -> Tensor:
    """x (B, C, H, W), each sample through each of five changes with this chance: flip, quarter
    turns, shift, brightness, contrast. Differentiable, and undone in the mind of a critic as long
    as the chance stays below about 0.8 (Karras et al. 2020b)."""
    B, _, H, W = x.shape
    use = lambda: (torch.rand(B, 1, 1, 1) < chance).to(x.device)  # noqa: E731
    x = torch.where(use(), x.flip(3), x)
    turns = torch.randint(1, 4, (B,))
    turned = (
        torch.stack([image.rot90(int(k), (1, 2)) for image, k in zip(x, turns, strict=True)])
        if H == W
        else x
    )
    x = torch.where(use(), turned, x)
    dx, dy = (torch.randint(-size // 8, size // 8 + 1, (B,)) for size in (W, H))
    shifted = torch.stack(
        [image.roll((int(b), int(a)), (1, 2)) for image, a, b in zip(x, dx, dy, strict=True)]
    )
    x = torch.where(use(), shifted, x)
    x = torch.where(use(), x + 0.2 * torch.randn(B, 1, 1, 1).to(x), x)
    return torch.where(use(), x * (0.5 * torch.randn(B, 1, 1, 1)).exp2().to(x), x)


def adapted(
    chance: Tensor, judged: Tensor, target: float, images: int, horizon: float = 500_000
) -> Tensor:
    """The chance a step later: up while the critic is surer than `target` of real pictures (mean
    sign of its logits), so that 0 to 1 takes `horizon` pictures (Karras et al. 2020b, section 3.2).
    """
    return (chance + (judged.sign().mean() - target).sign() * images / horizon).clamp(0, 1)


# ---- objective -----------------------------------------------------------------------------------


def path_length(generator: StyleGAN2Generator, ws: Tensor, images: Tensor) -> Tensor:
    """|J_w^T y| of each sample for a random picture y (Karras et al. 2020, eq. 4): how far a step in w
    moves the picture."""
    noise = torch.randn_like(images) / math.sqrt(images.shape[2] * images.shape[3])
    (slope,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)  # (B, L, W)
    return slope.square().sum(2).mean(1).sqrt()


# what moves with a process's own samples
RUNNING = ("augment", "path", "w_avg", "magnitude_ema", "stored_mean", "stored_var")


def gan(recipe: GanRecipe) -> Objective:
    """The maker's and the critic's loss of a batch, each blind to the other's weights."""

    def loss(match: Match, part: Batch) -> Tensor:
        real, labels = clean(part["images"]), part["labels"]
        condition, generator, total = match.gan.condition(labels), match.generator, torch.zeros(())
        z = torch.randn(len(real), match.gan.z_dim).to(real.device)
        if isinstance(generator, StyleGAN2Generator):
            w = generator.mapping(z, condition)
            generator.mapping.w_avg.lerp_(w.detach().mean(0), 0.002)
            ws = w[:, None].repeat(1, generator.config.num_ws, 1)
            made = generator.synthesis(
                ws, torch.Generator().manual_seed(int(torch.randint(2**31, ())))
            )
            if recipe.path_length:
                lengths = path_length(generator, ws, made)
                match.path.lerp_(lengths.mean().detach(), 0.01)
                total = total + recipe.path_length * (lengths - match.path).square().sum()
        else:
            made = generator(z, condition)
            total = total + recipe.orthogonal * orthogonality(generator) * len(real)
        chance = float(match.augment)
        critic = Judge(match.discriminator, condition)
        maker, judged = duel(
            GAMES[recipe.game],
            critic,
            augmented(real, chance),
            augmented(made, chance),
            recipe.gamma,
        )
        if recipe.augment_target and critic.first is not None:
            match.augment.copy_(
                adapted(
                    match.augment, critic.first, recipe.augment_target, len(real) * parallel.count()
                )
            )
        return total + maker.sum() + judged.sum()

    return Objective(
        loss,
        lambda batch: len(batch["images"]),
        after=partial(parallel.average_buffers, names=RUNNING),
    )


class Judge(nn.Module):
    """A discriminator and its classes as a function of pictures alone; `first` are the logits of
    its first call, on real ones."""

    def __init__(self, discriminator: nn.Module, condition: Tensor | None) -> None:
        super().__init__()
        self.discriminator, self.condition = discriminator, condition
        self.first: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, 1)
        out = self.discriminator(x, self.condition)
        self.first = out.detach() if self.first is None else self.first
        return out


# ---- runs ----------------------------------------------------------------------------------------


class LabelledBatches(PictureBatches):
    """Endless batches {"images": (B, 3, H, W) uint8, "labels": (B,)}, each a function of seed and
    step."""

    def __init__(
        self,
        drawn_from: list[tuple[Source, float]],
        classes: list[str],
        rows: int,
        seed: int,
        step: int = 0,
    ) -> None:
        self.sources, self.weights = [s for s, _ in drawn_from], [w for _, w in drawn_from]
        self.classes, self.rows, self.seed, self.step = classes, rows, seed, step

    def batch(self, step: int) -> dict[str, Tensor]:
        rng = random.Random(f"{self.seed}/{step}")
        pairs = [self.one(rng) for _ in range(self.rows)]
        images = torch.from_numpy(np.stack([picture for picture, _ in pairs])).permute(0, 3, 1, 2)
        return {"images": images, "labels": torch.tensor([label for _, label in pairs])}

    def one(self, rng: random.Random) -> tuple[np.ndarray, int]:
        """A picture whose caption holds one of the classes, where there are any."""
        while True:
            picture, caption = rng.choices(self.sources, self.weights)[0].sample(rng)
            if not self.classes:
                return picture, 0
            found = [i for i, word in enumerate(self.classes) if word in caption]
            if found:
                return picture, found[0]


def plan(recipe: GanRecipe) -> dict[str, Any]:
    """What a run will take; trains nothing."""
    match = Match(recipe)
    return planned(
        recipe, sum(p.numel() for p in match.parameters()), game_flops(match, recipe), kept=0
    )


def game_flops(match: Match, recipe: GanRecipe) -> float:
    """Of one picture: the generator forward and back, the critic on three pictures; penalties about
    double the critic's part."""
    side, width, label = (
        recipe.side,
        match.gan.z_dim,
        match.gan.condition(torch.zeros(1, dtype=torch.int64)),
    )
    maker = count_flops(match.generator, lambda network: network(torch.zeros(1, width), label))
    critic = count_flops(
        match.discriminator, lambda network: network(torch.zeros(1, 3, side, side), label)
    )
    return 3 * maker + (18 if recipe.gamma else 9) * critic


def run(recipe: GanRecipe) -> Path:
    """Train, and write `out/model` (the generator) and `out/critic`."""
    start, match = begin(recipe), Match(recipe)
    batches = LabelledBatches(
        sources(recipe.data.train, recipe.side),
        recipe.classes,
        recipe.rows,
        recipe.seed,
        step=start.step,
    )
    fit(
        recipe,
        start,
        match,
        384,
        batches,
        gan(recipe),
        game_flops(match, recipe),
        sample=partial(sample, recipe),
    )
    if start.rank == 0:
        checkpoints.save(match.generator, start.out / "model")
        checkpoints.save(match.discriminator, start.out / "critic")
        (start.out / "model" / "generation_config.json").write_text(
            json.dumps({"classes": recipe.classes}) + "\n"
        )
    parallel.finish()
    return start.out / "model"


@torch.no_grad()
def sample(recipe: GanRecipe, match: Match, step: int) -> str:
    """A row of eight pictures of fixed z, one class after another, in `out/samples`."""
    z = torch.randn(8, match.gan.z_dim, generator=torch.Generator().manual_seed(recipe.seed))
    device = next(match.parameters()).device
    labels = (torch.arange(8) % max(1, len(recipe.classes))).to(device)
    match.generator.eval()
    made = match.gan.paint(z.to(device), labels)
    match.generator.train()
    return sheet(Path(recipe.out), step, [pixels(made)])
