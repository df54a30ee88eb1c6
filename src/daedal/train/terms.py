"""What a flow objective may add to its squared error: weights of noise levels, fixed or learned,
noise with a colour, and alignment of an early block with what sees more (the network itself at
lower noise, or a CLIP tower). What such a term keeps stands beside the network while it trains, as
`network.auxiliary`, and is not shipped.

Legend: B batch, T tokens, C values of a token, D width."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from daedal import checkpoints
from daedal.data.pictures import encode_captions, matches, read_rows
from daedal.data.tokenizer import Tokenizer
from daedal.errors import DaedalError
from daedal.networks.clip import CLIPModel
from daedal.networks.media import MediaTransformer, Text, TextEncoder
from daedal.nn.conv import init_
from daedal.nn.linear import Linear
from daedal.processes.noise import Level, noised
from daedal.train.pictures import clean
from daedal.train.recipe.flow import FlowRecipe

CLOSEST = 0.05  # flow time that velocities are not asked for below (Li & He 2025)
# flow time below which the weight of an x0 error grows no more. At Li & He's 0.05 a small network,
# whose error has a floor, hears of
FLAT = 0.4
# little else: its gradient there was a hundred times that at high noise (docs/log.md)
# how much less noise, at most, a network sees when it teaches itself (Jiang et al. 2025)
NEARER = 0.2


def weight(t: Tensor, min_snr: float | None) -> Tensor:
    """What a squared error of x0 counts at flow times t: 1 / t^2, which makes it one of the
    velocity, or min(SNR, gamma) with SNR = (1 - t)^2 / t^2 (Hang et al. 2023, eq. 7)."""
    if min_snr is None:
        return t.clamp(min=FLAT) ** -2
    return ((1 - t) / t.clamp(min=1e-4)).square().clamp(max=min_snr)


def flow_level(t: Tensor) -> Level:
    """The noise level of flow times."""
    return Level(1 - t, t, t)


def latents(network: MediaTransformer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, H, W) uint8 as tokens (B, T, C), and the positions of these."""
    positions = network.codec.positions(*images.shape[-2:], device=images.device)
    return network.codec.encode(clean(images)), positions


def noisy(x0: Tensor, t: Tensor) -> Tensor:
    """Tokens (B, T, C) under noise of their own at flow times (B, 1)."""
    return noised(x0, torch.randn(x0.shape).to(x0.device), flow_level(t[..., None]))


def offset(shape: torch.Size, strength: float, channels: int) -> Tensor:
    """Noise (B, T, C) whose channels also have one value each for the whole picture, so that its
    mean colour is noised as late as its details (Guttenberg 2023)."""
    eps = torch.randn(shape)
    if not strength:
        return eps
    shared = torch.randn(shape[0], 1, channels)
    return eps + strength * shared.repeat_interleave(shape[2] // channels, 2)


class Uncertainty(nn.Module):
    """u(t), the log of the expected loss at a level: a cosine series. loss / exp(u) + u is least
    where exp(u) is the mean loss there, and then all levels pull alike (Karras et al. 2024, eq. 14
    and 15)."""

    def __init__(self, terms: int = 12) -> None:
        super().__init__()
        self.series = nn.Parameter(torch.zeros(terms))

    def forward(self, t: Tensor) -> Tensor:
        """Flow times (...) -> (...)."""
        return (
            t[..., None] * math.pi * torch.arange(len(self.series), device=t.device)
        ).cos() @ self.series


class EmaCopy(nn.Module):
    """An average of a network's weights that moves with it, as buffers, so that a checkpoint keeps
    it."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        for name, p in network.named_parameters():
            self.register_buffer(name.replace(".", "/"), p.detach().clone())

    def weights(self) -> dict[str, Tensor]:
        return {name.replace("/", "."): buffer for name, buffer in self.named_buffers()}

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        now = dict(network.named_parameters())
        for name, average in self.weights().items():
            average.lerp_(now[name], 1 - self.decay)


# ---- alignment -----------------------------------------------------------------------------------


class Alignment(nn.Module):
    """A projection of the block a third up, and what it should resemble: `wanted`."""

    def __init__(self, network: MediaTransformer, width: int) -> None:
        super().__init__()
        D, self.depth = network.config.hidden_size, network.config.num_hidden_layers
        self.project = init_(nn.Sequential(Linear(D, D), nn.SiLU(), Linear(D, width)), 0)

    def forward(self, states: list[Tensor], wanted: Tensor) -> Tensor:
        """1 - cosine of each token (B, T), from what left each block [(B, T, D)] (Yu et al. 2024,
        eq. 8)."""
        own = self.project(states[(self.depth - 1) // 3].float())
        return 1 - F.cosine_similarity(own, wanted.float(), dim=-1)


class SelfAlignment(Alignment):
    """SRA (Jiang et al. 2025): the teacher is an average of the network's own weights, two thirds
    up, at less noise. `wanted` reads it with the student's text."""

    def __init__(self, network: MediaTransformer, decay: float) -> None:
        super().__init__(network, network.config.hidden_size)
        self.teacher = EmaCopy(network, decay)

    @torch.no_grad()
    def wanted(
        self,
        network: MediaTransformer,
        images: Tensor,
        x0: Tensor,
        eps: Tensor,
        t: Tensor,
        positions: Tensor,
        text: Text,
    ) -> Tensor:
        nearer = (t - NEARER * torch.rand(len(t), 1, 1).to(t)).clamp(min=0)
        states: list[Tensor] = []
        seen = noised(x0, eps, flow_level(nearer))
        still = Text([(k.detach(), v.detach()) for k, v in text.kv], text.pooled.detach())
        inputs = (seen, positions, nearer[..., 0], still)
        functional_call(network, self.teacher.weights(), inputs, {"states": states}, strict=False)
        return states[2 * (self.depth - 1) // 3]


class TowerAlignment(Alignment):
    """REPA (Yu et al. 2024): the teacher is the picture tower of a CLIP model, whose patches are
    brought to the network's grid."""

    def __init__(self, network: MediaTransformer, clip: CLIPModel) -> None:
        super().__init__(network, clip.config.vision.hidden_size)
        # in a list: no part of what is trained or kept
        self.clip = [clip.eval().requires_grad_(False)]

    @torch.no_grad()
    def wanted(self, network: MediaTransformer, images: Tensor, *seen: Any) -> Tensor:
        tower, c = self.clip[0].to(images.device), self.clip[0].config.vision
        resized = F.interpolate(
            images, size=(c.image_size, c.image_size), mode="bilinear", antialias=True
        )
        grid = (c.image_size // c.patch_size,) * 2
        # (B, D, h, w), without the class token
        patches = tower.vision_model(resized).last[:, 1:].mT.unflatten(2, grid)
        side = [size // network.codec.side for size in images.shape[2:]]
        return F.interpolate(patches, size=side, mode="bilinear").flatten(2).mT


# ---- captions ------------------------------------------------------------------------------------


class Additive:
    """Names and endings of captions ("red apple" and ", noto emoji") that are to add up: what
    another ending does to a caption's pooled vector is the same whatever the name, so that what is
    learnt of names under one ending holds under the others, also where no picture showed them
    together. From captions of parquet sets that start with their row's `name`, and endings that a
    hundredth of them have."""

    def __init__(self, recipe: FlowRecipe, tokenizer: Tokenizer, length: int) -> None:
        files = [s for s in recipe.data.train if s.path.endswith(".parquet")]
        named = []
        for s in files:
            for row in read_rows(Path(s.path), ("name", "caption", *s.where)):
                name, caption = row.get("name"), row["caption"]
                if matches(row, s.where) and name and caption.startswith(name):
                    named.append((name, caption.removeprefix(name)))
        counts = Counter(ending for _, ending in named)
        endings = [ending for ending, count in counts.items() if 100 * count >= len(named)]
        if len(endings) < 2:
            raise DaedalError(
                "additive needs captions of names with endings, as a parquet set's `name` and `caption`; give additive=0 for this data."
            )
        names = sorted({name for name, _ in named})
        # (E, N, L)
        said = [[name + ending for name in names] for ending in endings]
        self.captions = torch.stack([encode_captions(tokenizer, each, length) for each in said])

    def __call__(self, text: TextEncoder, count: int) -> Tensor:
        """The variance among `count` names of what the change from one ending to another does, as a
        share of that of the vectors."""
        endings = torch.randperm(len(self.captions))[:2]
        names = torch.randint(self.captions.shape[1], (count,))
        # (2 * count, L)
        some = self.captions[endings][:, names].flatten(0, 1).to(text.position.device)
        gist = text.gist(text(some, torch.float32))
        one, other = gist.chunk(2)
        return (one - other).var(0, correction=0).mean() / gist.detach().var(0, correction=0).mean()


# ---- beside the network --------------------------------------------------------------------------


def auxiliary(recipe: FlowRecipe, network: MediaTransformer) -> nn.ModuleDict:
    """What the recipe's terms train or keep beside the network."""
    kept: dict[str, nn.Module] = {"uncertainty": Uncertainty()} if recipe.uncertainty else {}
    if recipe.align and recipe.align_to == "self":
        kept["align"] = SelfAlignment(network, recipe.align_decay)
    elif recipe.align:
        clip = checkpoints.load(checkpoints.resolve(recipe.align_to), torch.float32)
        if not isinstance(clip, CLIPModel):
            raise DaedalError(
                f"align_to = {recipe.align_to} holds a {type(clip).__name__}; give self, or the folder of a CLIP model."
            )
        kept["align"] = TowerAlignment(network, clip)
    return nn.ModuleDict(kept)


def follow(network: Any) -> None:
    """After a step: what moves with the network."""
    for kept in network.auxiliary.modules():
        if isinstance(kept, EmaCopy):
            kept.follow(network)
