"""What a procedural instruction is: the user's words, a right answer, and a program that says what
any answer earns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Constraints = Callable[[str], dict[str, bool]]


@dataclass(frozen=True)
class Task:
    """`kind` of task, `prompt` (the user's words), `answer` (a right one), `check`: what a
    completion earns, 0 to 1 (the gold reward), `demands`, which says of each constraint whether a
    completion meets it, and the messages `before`, whose answers are right ones too."""

    kind: str
    prompt: str
    answer: str
    check: Callable[[str], float]
    demands: Constraints | None = None
    before: tuple[dict[str, Any], ...] = ()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation up to what the user says last."""
        return [*self.before, {"role": "user", "content": self.prompt}]

    def constraints(self, text: str) -> dict[str, bool]:
        """Constraint -> whether `text` meets it; a task that has no names for its constraints has
        one, `right`."""
        return self.demands(text) if self.demands else {"right": self.check(text) >= 1}


def asked(kind: str, prompt: str, answer: str, demands: Constraints) -> Task:
    """A task whose reward is the share of its constraints that are met."""

    def check(text: str) -> float:
        met = demands(text)
        return sum(met.values()) / len(met)

    return Task(kind, prompt, answer, check, demands)


def phrases(text: str) -> tuple[str, ...]:
    """The phrases of a text with bars between them."""
    return tuple(text.split(" | "))
