"""GANs: StyleGAN2, StyleGAN3 and BigGAN on pictures, with R3GAN's loss and gradient penalties,
adaptive augmentation and path-length regularisation.

One module holds both sides, so the one trainer and its one backward pass train them
(daedal.train.adversarial). Classes, where there are any, are words: a picture's class is the first
of them that its caption holds.

Legend: B batch, C channels, Z width of z, W width of styles."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from daedal import checkpoints
from daedal.data.pictures import DrawnBatches, Weighted, stacked
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
from daedal.train.pictures import PictureTask, clean, sheet, sources
from daedal.train.recipe.pictures import GanRecipe
from daedal.train.task import evaluating
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
            critic = BigGANDiscriminatorConfig(**shared, **recipe.critic_options)
            self.discriminator = BigGANDiscriminator(critic)
        else:
            shared = {"img_resolution": side, "c_dim": count}
            if recipe.kind == "stylegan3":
                self.generator = StyleGAN3Generator(StyleGAN3Config(**shared, **options))
            else:
                self.generator = StyleGAN2Generator(StyleGANConfig(**shared, **options))
            known = {f.name for f in fields(StyleGANDiscriminatorConfig)}
            common = {key: value for key, value in options.items() if key in known}
            config = StyleGANDiscriminatorConfig(**shared, **{**common, **recipe.critic_options})
            self.discriminator = StyleGAN2Discriminator(config)
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
    quarters = zip(x, turns if H == W else [0] * B, strict=True)
    turned = [image.rot90(int(k), (1, 2)) for image, k in quarters]
    x = torch.where(use(), torch.stack(turned), x)
    dx, dy = (torch.randint(-size // 8, size // 8 + 1, (B,)) for size in (W, H))
    places = zip(x, dy.tolist(), dx.tolist(), strict=True)
    shifted = [image.roll(place, (1, 2)) for image, *place in places]
    x = torch.where(use(), torch.stack(shifted), x)
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
        shown, made = augmented(real, chance), augmented(made, chance)
        maker, judged = duel(GAMES[recipe.game], critic, shown, made, recipe.gamma)
        if recipe.augment_target and critic.first is not None:
            images, target = len(real) * parallel.count(), recipe.augment_target
            match.augment.copy_(adapted(match.augment, critic.first, target, images))
        return total + maker.sum() + judged.sum()

    follow = partial(parallel.average_buffers, names=RUNNING)
    return Objective(loss, lambda batch: len(batch["images"]), follow)


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


class LabelledBatches(DrawnBatches):
    """Endless batches {"images": (B, 3, H, W) uint8, "labels": (B,)}, each a function of seed and
    step."""

    def __init__(
        self,
        drawn_from: Sequence[Weighted],
        classes: list[str],
        rows: int,
        seed: int,
        step: int = 0,
    ) -> None:
        super().__init__(drawn_from, rows, seed, step)
        self.classes = classes

    def batch(self, step: int) -> dict[str, Tensor]:
        rng = random.Random(f"{self.seed}/{step}")
        pairs = [self.one(rng) for _ in range(self.rows)]
        images = stacked([picture for picture, _ in pairs])
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


def game_flops(match: Match, recipe: GanRecipe) -> float:
    """Of one picture: the generator forward and back, the critic on three pictures; penalties about
    double the critic's part."""
    side, width = recipe.side, match.gan.z_dim
    label = match.gan.condition(torch.zeros(1, dtype=torch.int64))
    maker = count_flops(match.generator, lambda network: network(torch.zeros(1, width), label))
    images = lambda: torch.zeros(1, 3, side, side)  # noqa: E731 - on the meta device
    critic = count_flops(match.discriminator, lambda network: network(images(), label))
    return 3 * maker + (18 if recipe.gamma else 9) * critic


class Adversarial(PictureTask):
    """`out/model` is the generator, `out/critic` the discriminator."""

    recipe_type, width = GanRecipe, 384

    def build(self) -> None:
        r, self.network = self.recipe, Match(self.recipe)
        drawn_from = sources(r.data.train, r.side)
        self.batches = LabelledBatches(drawn_from, r.classes, r.rows, r.seed, self.start.step)
        self.objective = gan(r)
        self.flops = r.rows * game_flops(self.network, r)

    @torch.no_grad()
    def sample(self, match: Match, step: int) -> str:
        """A row of eight pictures of fixed z, one class after another, in `out/samples`."""
        fixed = torch.Generator().manual_seed(self.recipe.seed)
        z, device = torch.randn(8, match.gan.z_dim, generator=fixed), match.path.device
        labels = (torch.arange(8) % max(1, len(self.recipe.classes))).to(device)
        with evaluating(match.generator):
            made = match.gan.paint(z.to(device), labels)
        return sheet(self.start.out, step, [pixels(made)])

    def save(self, state: dict[str, Tensor]) -> None:
        checkpoints.save(self.network.generator, self.folder)
        checkpoints.save(self.network.discriminator, self.folder.with_name("critic"))
        classes = json.dumps({"classes": self.recipe.classes})
        (self.folder / "generation_config.json").write_text(classes + "\n")

    def sample_cost(self) -> tuple[int, float, int]:
        match = Match(self.recipe)
        return sum(p.numel() for p in match.parameters()), game_flops(match, self.recipe), 0
