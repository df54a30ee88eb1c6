"""A small classifier of harmful texts: logistic regression for each category over hashed words, pairs
and triples of words and four-letter pieces of words (Weinberger et al. 2009, "Feature Hashing"), with
a threshold a category. README.md beside it is its card; `train.py` made it. It knows English, and
words better than meaning."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import safetensors.numpy

from daedal.trust import personal
from daedal.trust.memorised.overlap import number, windows, words_of

CATEGORIES = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")
PERSONAL = "personal-data"  # by the rules of daedal.trust.personal
BUCKETS = 1 << 13
WEIGHTS = Path(__file__).with_name("weights.safetensors")
SPAN = 20  # words that are judged together: in 60 a harmful sentence went under
STEP = 10


@dataclass(frozen=True)
class Verdict:
    """A score in [0, 1] for each category, and which are above their thresholds."""

    scores: dict[str, float]
    categories: dict[str, bool]

    @property
    def flagged(self) -> bool:
        return any(self.categories.values())

    @property
    def reasons(self) -> list[str]:
        return [name for name, above in self.categories.items() if above]


def features(words: list[str]) -> np.ndarray:
    """The buckets of a text, each once, (n,) int64."""
    pieces = [f"#{word}#"[i : i + 4] for word in words for i in range(max(1, len(word) - 1))]
    letters = np.fromiter((number(f"#{piece}") for piece in pieces), np.uint64, len(pieces))
    hashes = np.concatenate([letters, *(windows(words, size) for size in (1, 2, 3))])
    return np.unique((hashes >> np.uint64(40)).astype(np.int64) % BUCKETS)


def parts(text: str) -> list[list[str]]:
    """The words of a text in overlapping spans."""
    words = words_of(text)
    return [words[i : i + SPAN] for i in range(0, max(1, len(words) - STEP), STEP)]


@dataclass(frozen=True)
class Classifier:
    weights: np.ndarray  # (BUCKETS, categories) float32
    bias: np.ndarray  # (categories,)
    thresholds: np.ndarray  # (categories,) of scores

    def save(self, file: Path = WEIGHTS) -> None:
        half = self.weights.astype(np.float16)
        safetensors.numpy.save_file(
            {"weights": half, "bias": self.bias, "thresholds": self.thresholds}, file
        )

    def scores(self, text: str) -> np.ndarray:
        """(categories,), of the worst span."""
        logits = [
            self.weights[found].sum(0) / max(1, len(found)) ** 0.5 + self.bias
            for found in map(features, parts(text))
        ]
        return 1 / (1 + np.exp(-np.max(logits, axis=0)))

    def judge(self, text: str) -> Verdict:
        scores = self.scores(text)
        above = scores >= self.thresholds
        private = bool(personal.found(text))
        return Verdict(
            {name: float(s) for name, s in zip(CATEGORIES, scores, strict=True)}
            | {PERSONAL: float(private)},
            {name: bool(a) for name, a in zip(CATEGORIES, above, strict=True)}
            | {PERSONAL: private},
        )


@cache
def classifier() -> Classifier:
    """The one that comes with the package."""
    found = safetensors.numpy.load_file(WEIGHTS)
    return Classifier(found["weights"].astype(np.float32), found["bias"], found["thresholds"])


class Holdback:
    """Judges a text while it is written: the last `held` words wait until what follows them was
    judged too, so that nothing is let out whose span was not found harmless."""

    def __init__(self, held: int = 12, ignored: tuple[str, ...] = (PERSONAL,)) -> None:
        self.held, self.ignored = held, ignored
        self.waiting, self.before = "", ""
        self.reasons: list[str] = []

    def push(self, text: str, last: bool = False) -> str:
        """What may be let out now; nothing any more once there are `reasons`."""
        if self.reasons:
            return ""
        self.waiting += text
        verdict = classifier().judge(self.before + self.waiting)
        self.reasons = [name for name in verdict.reasons if name not in self.ignored]
        if self.reasons:
            return ""
        free = self.waiting if last else _without_last_words(self.waiting, self.held)
        self.waiting = self.waiting[len(free) :]
        self.before = " ".join([*self.before.split(), *free.split()][-SPAN:]) + " "
        return free


def _without_last_words(text: str, count: int) -> str:
    """The text before its last `count` words and the one that may not be whole yet."""
    end = len(text)
    for _ in range(count + 1):
        end = max(text.rfind(" ", 0, end), text.rfind("\n", 0, end), 0)
    return text[:end]
