"""How good pictures are: shares with confidence intervals, distances between sets of pictures on any features, copies of the training set.

Legend: N, M pictures, F features.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.data.worlds import scenes
from daedal.media import images
from daedal.pipelines.image import ImagePipeline
from daedal.processes.measures import first_hits


@dataclass(frozen=True)
class Measured:
    """A number, its 95 % interval, and how many samples it stands on."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n = {self.n})"


def share(hits: int, n: int) -> Measured:
    """A share with Wilson's interval, which stays within 0 and 1 (Wilson 1927)."""
    z, p = 1.96, hits / n
    middle, spread = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Measured(p, max(0.0, middle - spread), min(1.0, middle + spread), n)


def bootstrap(measure: Callable[[Tensor], float], samples: Tensor, rounds: int = 200, seed: int = 0) -> Measured:
    """`measure` of the samples (N, ...), with the interval of its values on samples drawn again with repeats (Efron 1979)."""
    draw = torch.Generator().manual_seed(seed)
    values = sorted(measure(samples[torch.randint(len(samples), (len(samples),), generator=draw)]) for _ in range(rounds))
    return Measured(measure(samples), values[int(0.025 * rounds)], values[int(0.975 * rounds)], len(samples))


# ---- distances between two sets of features -----------------------------------------------------------------------------------------


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """(a . b / F + 1)^3 (Binkowski et al. 2018): (N, F), (M, F) -> (N, M)."""
    return (a @ b.mT / a.shape[1] + 1) ** 3


def squared_mmd(a: Tensor, b: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy of two samples (Gretton et al. 2012, eq. 3)."""
    within = [(kernel(x, x).sum() - kernel(x, x).diagonal().sum()) / (len(x) * (len(x) - 1)) for x in (a, b)]
    return float(within[0] + within[1] - 2 * kernel(a, b).mean())


def kid(fake: Tensor, real: Tensor, subsets: int = 50, size: int = 100, seed: int = 0) -> Measured:
    """Kernel inception distance on any features (N, F), (M, F): the mean over subsets, with the interval of that mean. Unbiased at any n; zero
    for two samples of one distribution."""
    draw, size = torch.Generator().manual_seed(seed), min(size, len(fake), len(real))
    rows = lambda x: x[torch.randperm(len(x), generator=draw)[:size]].double()  # noqa: E731
    values = torch.tensor([squared_mmd(rows(fake), rows(real)) for _ in range(subsets)])
    mean, error = float(values.mean()), 1.96 * float(values.std()) / math.sqrt(subsets)
    return Measured(mean, mean - error, mean + error, len(fake))


def frechet(fake: Tensor, real: Tensor) -> float:
    """Frechet distance of two normal distributions fitted to the features (Heusel et al. 2017, eq. 6): biased upwards at small n, so state n."""
    a, b = fake.double(), real.double()
    cov_a, cov_b = torch.cov(a.mT), torch.cov(b.mT)
    # tr (A B)^(1/2) from the singular values of the product of their roots
    cross = torch.linalg.matrix_norm(root(cov_a) @ root(cov_b), "nuc")
    return float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def root(matrix: Tensor) -> Tensor:
    """The square root of a symmetric positive matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.mT


def precision_recall(fake: Tensor, real: Tensor, k: int = 3) -> tuple[Measured, Measured]:
    """Shares of fakes within reach of a real one, and of real ones within reach of a fake, where a sample reaches to its k-th neighbour
    (Kynkaanniemi et al. 2019)."""

    def covered(points: Tensor, by: Tensor) -> Measured:
        reach = torch.cdist(by, by).kthvalue(k + 1, dim=1).values  # the nearest is itself
        return share(int((torch.cdist(points, by) <= reach).any(1).sum()), len(points))

    return covered(fake, real), covered(real, fake)


def copies(fake: Tensor, train: Tensor, ratio: float = 1 / 3) -> Measured:
    """Share of pictures that are copies: much nearer to one training picture than to the next (distances below `ratio`; Carlini et al. 2023,
    Yoon et al. 2023)."""
    nearest = torch.cdist(fake.flatten(1).float(), train.flatten(1).float()).topk(2, largest=False).values  # (N, 2)
    return share(int((nearest[:, 0] < ratio * nearest[:, 1]).sum()), len(fake))


def retrieval(pictures: Tensor, texts: Tensor) -> Measured:
    """R@1: share of pictures (N, F) whose own caption (N, F), of all N, is the nearest by cosine."""
    return share(int(first_hits(pictures, texts).sum()), len(pictures))


def coarse(pictures: np.ndarray, side: int = 16) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, side * side * 3): the picture's own layout and colours as features, for want of a trained eye."""
    return F.adaptive_avg_pool2d(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1, side).flatten(1)


# ---- scenes -----------------------------------------------------------------------------------------------------------------------------


def scene_probe(paint: Callable[[list[str], int], np.ndarray], n: int, unseen: bool, seed: int = 0) -> tuple[dict[str, Measured], np.ndarray]:
    """Shares of `n` scenes that `paint(captions, seed) -> (N, H, W, 3)` gets right (objects, colours, relation, background, all), and the
    pictures. `unseen` asks for pairs of colour and shape that training never holds."""
    rng = random.Random(f"probe/{seed}/{unseen}")
    wanted = [scenes.scene(rng, unseen) for _ in range(n)]
    pictures = paint([scene.caption for scene in wanted], seed)
    right = [scenes.correct(scene, picture) for scene, picture in zip(wanted, pictures, strict=True)]
    return {key: share(sum(r[key] for r in right), n) for key in right[0]}, pictures


def report(pipeline: ImagePipeline, n: int, seed: int = 0, batch: int = 25, **settings: Any) -> tuple[dict[str, Any], np.ndarray]:
    """Measures of a model of scenes, and a sheet of its pictures: right answers among seen and unseen pairs, and distances to fresh scenes
    (on the picture at 16 x 16 as features)."""

    def paint(captions: list[str], seed: int) -> np.ndarray:
        parts = [captions[i : i + batch] for i in range(0, len(captions), batch)]
        return np.stack([p.pixels for i, part in enumerate(parts) for p in pipeline.paint_each(part, seed=seed + i * batch, **settings)])

    result: dict[str, Any] = {}
    sheets = []
    for name, unseen in (("seen", False), ("unseen", True)):
        result[name], pictures = scene_probe(paint, n, unseen, seed)
        sheets.append(pictures)
    rng = random.Random(f"fresh/{seed}")
    real, fake = coarse(np.stack([scenes.draw(scenes.scene(rng)) for _ in range(2 * n)])), coarse(sheets[0])
    precision, recall = precision_recall(fake, real)
    result["distance"] = {
        "kid": kid(fake, real),
        "precision": precision,
        "recall": recall,
        "frechet": bootstrap(lambda x: frechet(x, real), fake, 40),
    }
    return result, images.grid(list(np.concatenate([sheet[:20] for sheet in sheets])), columns=10, gap=2)
