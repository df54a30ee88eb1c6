"""Small measures of pictures and embeddings that training reports and evaluation puts error bars
on.

Legend: N pictures, F features."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def psnr(a: Tensor, b: Tensor, peak: float = 2.0) -> Tensor:
    """Peak signal to noise ratio in decibels of each picture (N, ...) -> (N,), values spanning
    `peak`."""
    return 10 * torch.log10(peak**2 / (a - b).square().flatten(1).mean(1).clamp(min=1e-12))


def first_hits(pictures: Tensor, texts: Tensor) -> Tensor:
    """(N,) bool: whether a picture's (N, F) own caption (N, F), of all N, is the nearest by cosine;
    the mean is R@1."""
    nearest = (F.normalize(pictures, dim=-1) @ F.normalize(texts, dim=-1).mT).argmax(1)
    return nearest == torch.arange(len(pictures), device=nearest.device)


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share, 95 % by default, which stays within 0 and 1 (Wilson 1927)."""
    p, scale = hits / n, 1 + z * z / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / scale, (middle + half) / scale


def edits(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Insertions, deletions and changes from one sequence to the other (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        last, row[0] = row[0], i + 1
        for j, y in enumerate(b):
            last, row[j + 1] = row[j + 1], min(last + (x != y), row[j] + 1, row[j + 1] + 1)
    return row[-1]
