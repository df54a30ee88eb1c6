"""Numbers with their 95 % intervals."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from daedal.processes.measures import wilson


@dataclass(frozen=True)
class Measured:
    """A number, its 95 % interval, and how many samples it stands on."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n = {self.n})"


@dataclass(frozen=True)
class Report:
    """What was measured: as values for JSON, and as lines to read."""

    values: dict[str, Any]
    lines: list[str]


Groups = Mapping[str, Mapping[str, Measured]]  # group -> name -> what was measured


def plain(groups: Groups) -> dict[str, Any]:
    return {
        group: {name: asdict(measured) for name, measured in values.items()}
        for group, values in groups.items()
    }


def lines_of(groups: Groups) -> list[str]:
    return [
        f"{group:<10} {name:<12} {measured}"
        for group, values in groups.items()
        for name, measured in values.items()
    ]


def share(hits: int, n: int) -> Measured:
    """A share with Wilson's interval."""
    low, high = wilson(hits, n)
    return Measured(hits / n, max(0.0, low), min(1.0, high), n)


def bootstrap(
    measure: Callable[[Tensor], float], samples: Tensor, rounds: int = 200, seed: int = 0
) -> Measured:
    """`measure` of the samples (N, ...), with the interval of its values on samples drawn again
    with repeats (Efron 1979)."""
    draw = torch.Generator().manual_seed(seed)
    values = sorted(
        measure(samples[torch.randint(len(samples), (len(samples),), generator=draw)])
        for _ in range(rounds)
    )
    return Measured(
        measure(samples), values[int(0.025 * rounds)], values[int(0.975 * rounds)], len(samples)
    )


def jackknife(measure: Callable[..., float], *samples: Tensor, groups: int = 20) -> Measured:
    """`measure` of independent samples (N, ...), (M, ...), with a 95 % interval from what it
    becomes without each twentieth of each of them in turn (Quenouille 1956, Tukey 1958). For
    measures that repeats of a sample would bias, where `bootstrap` is wrong. N is the number told.
    """
    variance = 0.0
    for i, sample in enumerate(samples):
        parts = sample.split(math.ceil(len(sample) / groups))
        without = [torch.cat([*parts[:j], *parts[j + 1 :]]) for j in range(len(parts))]
        values = torch.tensor([measure(*samples[:i], rest, *samples[i + 1 :]) for rest in without])
        variance += (len(parts) - 1) * float(values.var(unbiased=False))
    value, error = measure(*samples), 1.96 * variance**0.5
    return Measured(value, value - error, value + error, len(samples[0]))
