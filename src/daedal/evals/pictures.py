"""How good pictures are: shares with confidence intervals, distances between sets of pictures on
any features, copies of the training set.

Legend: N, M pictures, F features."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from daedal.data.pictures import Folder, Parquet
from daedal.errors import DaedalError
from daedal.evals.measured import Measured, bootstrap, jackknife, share
from daedal.media import images
from daedal.pipelines.image import ImagePipeline
from daedal.processes.clip_scorer import ClipScorer
from daedal.processes.measures import first_hits
from daedal.train.pictures import held_out, sources
from daedal.train.recipe.pictures import PictureData
from daedal.train.tasks import load_recipe
from daedal.worlds import scenes

# ---- distances between two sets of features ------------------------------------------------------


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """(a . b / F + 1)^3 (Binkowski et al. 2018): (N, F), (M, F) -> (N, M)."""
    return (a @ b.mT / a.shape[1] + 1) ** 3


def kid(fake: Tensor, real: Tensor) -> float:
    """Kernel inception distance on any features (N, F), (M, F): the unbiased squared maximum mean
    discrepancy (Gretton et al. 2012, eq. 3) under Binkowski's kernel. At any n its mean is zero for
    two samples of one distribution, so that it may fall below."""
    a, b = fake.double(), real.double()
    within = [
        (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))
        for k in (kernel(a, a), kernel(b, b))
    ]
    return float(within[0] + within[1] - 2 * kernel(a, b).mean())


def frechet(fake: Tensor, real: Tensor) -> float:
    """Frechet distance of two normal distributions fitted to the features (Heusel et al. 2017, eq.
    6): biased upwards at small n, so state n. tr (A B)^(1/2) is the nuclear norm of the product of
    any roots of A and B; those of a QR are no larger than the sample."""
    (mean_a, a), (mean_b, b) = (centred_root(x.double()) for x in (fake, real))
    cross = torch.linalg.matrix_norm(a @ b.mT, "nuc")
    return float((mean_a - mean_b).square().sum() + a.square().sum() + b.square().sum() - 2 * cross)


def centred_root(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of samples (N, F), and a root R (min(N, F), F) of their covariance, R^T R."""
    mean = x.mean(0)
    return mean, torch.linalg.qr((x - mean) / math.sqrt(len(x) - 1), mode="r").R


def precision_recall(fake: Tensor, real: Tensor, k: int = 3) -> tuple[Measured, Measured]:
    """Shares of fakes within reach of a real one, and of real ones within reach of a fake, where a
    sample reaches to its k-th neighbour (Kynkaanniemi et al. 2019)."""

    def covered(points: Tensor, by: Tensor) -> Measured:
        reach = torch.cdist(by, by).kthvalue(k + 1, dim=1).values  # the nearest is itself
        return share(int((torch.cdist(points, by) <= reach).any(1).sum()), len(points))

    return covered(fake, real), covered(real, fake)


def copies(fake: Tensor, train: Tensor, ratio: float = 1 / 3) -> Measured:
    """Share of pictures that are copies: much nearer to one training picture than to the next
    (distances below `ratio`; Carlini et al. 2023, Yoon et al. 2023)."""
    apart = torch.cdist(fake.flatten(1).float(), train.flatten(1).float())
    nearest = apart.topk(2, largest=False).values  # (N, 2)
    return share(int((nearest[:, 0] < ratio * nearest[:, 1]).sum()), len(fake))


def retrieval(pictures: Tensor, texts: Tensor) -> Measured:
    """R@1: share of pictures (N, F) whose own caption (N, F), of all N, is the nearest by cosine."""
    return share(int(first_hits(pictures, texts).sum()), len(pictures))


def coarse(pictures: np.ndarray, side: int = 16) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, side * side * 3): the picture's own layout and colours as features,
    for want of a trained eye."""
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.adaptive_avg_pool2d(images, side).flatten(1)


# ---- scenes --------------------------------------------------------------------------------------


def scene_probe(
    paint: Callable[[list[str], int], np.ndarray], n: int, unseen: bool, seed: int = 0
) -> tuple[dict[str, Measured], np.ndarray]:
    """Shares of `n` scenes that `paint(captions, seed) -> (N, H, W, 3)` gets right (objects,
    colours, relation, background, all; and all, of each kind of scene), and the pictures. `unseen`
    asks for pairs of colour and shape that training never holds."""
    rng = random.Random(f"probe/{seed}/{unseen}")
    wanted = [scenes.scene(rng, unseen) for _ in range(n)]
    pictures = paint([scene.caption for scene in wanted], seed)
    right = [scenes.correct(*pair) for pair in zip(wanted, pictures, strict=True)]
    shares = {key: share(sum(r[key] for r in right), n) for key in right[0]}
    pairs = [(scenes.kind_of(s), r["all"]) for s, r in zip(wanted, right, strict=True)]
    for kind in scenes.KINDS:
        if some := [hit for known, hit in pairs if known == kind]:
            shares[kind] = share(sum(some), len(some))
    return shares, pictures


@dataclass(frozen=True)
class Reference:
    """Real pictures (M, H, W, 3) uint8 and their captions, the eye that looks at them, and where
    copies are looked for: among pictures (T, H, W, 3) that training saw, or else among these."""

    pictures: np.ndarray
    captions: list[str]
    scorer: ClipScorer | None = None
    trained_on: np.ndarray | None = None

    def features(self, pictures: np.ndarray) -> Tensor:
        """(N, H, W, 3) uint8 -> (N, F): of a CLIP tower, or the picture's own layout."""
        if self.scorer is None:
            return coarse(pictures)
        return self.scorer.pictures(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1)


def fresh_scenes(n: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    rng = random.Random(f"fresh/{seed}")
    made = [scenes.scene(rng) for _ in range(n)]
    return np.stack([scenes.draw(scene) for scene in made]), [scene.caption for scene in made]


def data_of(recipe: str) -> PictureData:
    """What a recipe (.yaml) trains on and holds out."""
    data = getattr(load_recipe(recipe), "data", None)
    if not isinstance(data, PictureData) or not data.validation:
        raise DaedalError(
            f"{recipe} holds out no pictures; give it data.validation, or give --data a parquet file of captioned pictures."
        )
    return data


def real_pictures(
    path: str,
    side: int,
    split: str | None = None,
    scorer: ClipScorer | None = None,
    most: int = 2000,
) -> Reference:
    """Up to `most` pictures on white, side x side pixels, and their captions, of a folder or of a
    parquet file's rows of this split, in an order of chance; or those that a recipe (.yaml) holds
    out, no caption twice, and beside them all that it trains on."""
    if path.endswith(".yaml"):
        data = data_of(path)
        pictures, captions = held_out(data.validation, side, most)
        files = [
            source
            for source, _ in sources(data.train, side)
            if isinstance(source, Parquet | Folder)
        ]
        if files:
            seen = np.stack([source.picture(i) for source in files for i in range(len(source))])
        else:
            seen = None
        return Reference(np.asarray(pictures.permute(0, 2, 3, 1)), captions, scorer, seen)
    if Path(path).is_dir():
        source = Folder(path, side)
    else:
        source = Parquet(path, side, {"split": split} if split else None)
    order = random.Random("real").sample(range(len(source)), min(most, len(source)))
    return Reference(
        np.stack([source.picture(i) for i in order]), [source.caption(i) for i in order], scorer
    )


def distances(pictures: np.ndarray, reference: Reference) -> dict[str, Measured]:
    """How far made pictures are from real ones, on the reference's features, and how many are
    copies (in pixels at 16 x 16)."""
    fake, real = reference.features(pictures), reference.features(reference.pictures)
    precision, recall = precision_recall(fake, real)
    return {
        "kid": jackknife(kid, fake, real), "precision": precision, "recall": recall, "frechet": jackknife(frechet, fake, real),
        "copies": copies(coarse(pictures), coarse(reference.pictures if reference.trained_on is None else reference.trained_on)),
    }  # fmt: skip


def likeness(
    pictures: np.ndarray, captions: list[str], reference: Reference
) -> dict[str, Measured]:
    """How well pictures (E * N, H, W, 3), E of each of N captions in turn, fit their captions in
    the eye of a CLIP tower: the mean cosine times 100 (Hessel et al. 2021, without its floor and
    factor), R@1 among all captions that differ, and the same of real pictures, which no painter
    need exceed. Intervals are over captions, of whose pictures means are taken."""
    assert reference.scorer is not None

    def measured(pictures: np.ndarray, captions: list[str], name: str) -> dict[str, Measured]:
        first = sorted({caption: i for i, caption in reversed(list(enumerate(captions)))}.values())
        seen = reference.features(pictures).unflatten(0, (-1, len(captions)))
        said = reference.scorer.texts(captions)  # type: ignore[union-attr]
        score = bootstrap(lambda x: float(x.mean()), 100 * (seen * said).sum(2).mean(0))
        # (E, N)
        hits = torch.stack([first_hits(some[first], said[first]) for some in seen]).float()
        if len(hits) == 1:
            r1 = share(int(hits.sum()), len(first))
        else:
            r1 = bootstrap(lambda x: float(x.mean()), hits.mean(0))
        return {f"clip_score{name}": score, f"r1{name}": r1}

    n = len(captions)
    return measured(pictures, captions, "") | measured(
        reference.pictures[:n], reference.captions[:n], "_of_real"
    )


def painter(
    pipeline: ImagePipeline, batch: int, **settings: Any
) -> Callable[[list[str], int], np.ndarray]:
    """paint(captions, seed) -> (N, H, W, 3) uint8; picture i has seed + i."""

    def paint(captions: list[str], seed: int) -> np.ndarray:
        parts = [captions[i : i + batch] for i in range(0, len(captions), batch)]
        made = []
        for i, part in enumerate(parts):
            made += pipeline.paint_each(part, seed=seed + i * batch, **settings)
        return np.stack([picture.pixels for picture in made])

    return paint


def report(
    pipeline: ImagePipeline,
    n: int,
    seed: int = 0,
    batch: int = 25,
    scorer: ClipScorer | None = None,
    real: Reference | None = None,
    each: int = 1,
    **settings: Any,
) -> tuple[dict[str, Any], np.ndarray]:
    """Measures of a model, and a sheet of its pictures. Without `real` pictures and their captions
    it is a model of scenes: right answers among seen and unseen pairs, and distances to fresh
    scenes; with them, `n` of the captions are painted, `each` times. `scorer`, or that of `real`,
    adds likeness to the captions, and is what distances are measured with; else it is the picture
    at 16 x 16."""
    paint, result = painter(pipeline, batch, **settings), {}
    sheets: list[np.ndarray] = []
    if real is None:
        for name, unseen in (("seen", False), ("unseen", True)):
            result[name], pictures = scene_probe(paint, n, unseen, seed)
            sheets.append(pictures)
        rng = random.Random(f"probe/{seed}/False")
        captions = [scenes.scene(rng).caption for _ in range(n)]
        reference = Reference(*fresh_scenes(2 * n, seed), scorer)
    else:
        captions, reference = real.captions[:n], real
        sheets.append(paint(captions * each, seed))
    result["distance"] = distances(sheets[0][: len(captions)], reference)  # one of each caption
    if reference.scorer:
        result["likeness"] = likeness(sheets[0], captions, reference)
    return result, images.grid(
        list(np.concatenate([sheet[:20] for sheet in sheets])), columns=10, gap=2
    )
