"""Learned position biases by how far a key is from its query (Raffel et al. 2020, section 2.1).

Legend: T tokens."""

import math

import torch
from torch import Tensor


def position_buckets(length: int, count: int, farthest: int, device: torch.device) -> Tensor:
    """(T, T) int64: the bucket of how far key j is from query i. Half of the `count` buckets are
    for keys behind the query; of each half, half hold one distance each, the rest distances up to
    `farthest` on a logarithmic scale, and all beyond."""
    at = torch.arange(length, device=device)
    distance, half = at[None] - at[:, None], count // 2
    near, exact = distance.abs(), half // 2
    steps = (near.clamp(min=1).float() / exact).log() / math.log(farthest / exact) * (half - exact)
    return half * (distance > 0) + torch.where(
        near < exact, near, (exact + steps.long()).clamp(max=half - 1)
    )
