"""Whether a text carries a watermark (the test of Kirchenbauer et al. 2023).

A pair of tokens is counted once however often it comes: a repeated pair is green each time or never,
and would make chance look like a mark (Fernandez et al. 2023, "Three Bricks"). Of pairs that were
written without the key, the green ones are binomial, so the p-value is exact and no approximation.

Legend: N pairs of tokens."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from daedal.processes.text_mark import GAMMA, GreenList

SURE = 1e-5  # false alarms among unmarked texts at which a mark is said to be there


@dataclass(frozen=True)
class MarkTest:
    """What the test counted: distinct pairs, the green among them, and how rare that is in a text
    written without the key."""

    pairs: int
    green: int

    @property
    def z(self) -> float:
        """Standard deviations above chance, 0 of an empty text."""
        spread = math.sqrt(self.pairs * GAMMA * (1 - GAMMA))
        return (self.green - GAMMA * self.pairs) / spread if spread else 0.0

    @property
    def p_value(self) -> float:
        """Chance of so many green pairs, or more, without the key."""
        return binomial_tail(self.green, self.pairs, GAMMA)

    @property
    def marked(self) -> bool:
        return self.p_value < SURE

    @property
    def sentence(self) -> str:
        counted = f"{self.green} of {self.pairs} pairs of tokens are green, z = {self.z:.1f}, p = {self.p_value:.1e}"
        if self.marked:
            return f"carries the watermark of this installation ({counted})."
        return (
            f"no watermark of this installation shows ({counted}); that says nothing about who wrote it: "
            "unmarked, short, strict or rewritten texts of any model look the same."
        )


def examine(mark: GreenList, tokens: Sequence[int]) -> MarkTest:
    """Test token ids of a text; the first is only the seed of the second."""
    pairs = sorted(set(itertools.pairwise(tokens)))
    green = mark.green([first for first, _ in pairs], [second for _, second in pairs])
    return MarkTest(len(pairs), int(green.sum()))


def binomial_tail(least: int, n: int, p: float) -> float:
    """P(X >= least) of X binomial (n, p), summed from its largest terms in logarithms."""
    if least <= 0:
        return 1.0
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        + k * math.log(p) + (n - k) * math.log1p(-p)
        for k in range(least, n + 1)
    ]  # fmt: skip
    top = max(logs)
    return min(1.0, math.exp(top) * math.fsum(math.exp(log - top) for log in logs))
