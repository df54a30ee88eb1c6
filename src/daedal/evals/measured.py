"""Numbers with their 95 % intervals."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


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
