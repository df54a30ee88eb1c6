"""The second look at passages that were found: a small network over features of (question, passage)
orders them again. What decides is how well the question's words stand together in one place of the
passage: by stems, and by the embedder's word vectors, so that "big" counts for "large".

The weights (`rerank.json`) are fitted on questions made of books that no figure is measured on
(`benchmarks/documents.py fit`); a softmax over the candidates of each question, the right one the
likeliest (ListNet, Cao et al. 2007, with one right item).

Legend: N passages, F features, Q words of the question, W words, D width."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from daedal.assist.documents.passages import sentences
from daedal.assist.documents.perceptron import fitted
from daedal.assist.documents.words import STOP, content, stem

NUMBER = re.compile(
    r"\d|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|\w+ty|hundred|thousand|dozen)\b"
)
NAME = re.compile(r"(?<=[a-z,;'\"] )[A-Z][a-z]+|^\W*[A-Z][a-z]+")
PLACE = re.compile(r"\b(?:in|at|to|from|near) [A-Z][a-z]+")
FEATURES = ("bm25", "bm25_rank", "cosine", "cosine_gap", "cosine_rank", "overlap", "near", "bigrams", "soft", "soft_near", "soft_gap", "wanted", "size")  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A passage that was found by words, by meaning or both: BM25 (higher is better), cosine, and
    ranks from 1; None where it was not."""

    number: int
    text: str
    bm25: float | None = None
    by_words: int | None = None
    cosine: float | None = None
    by_meaning: int | None = None


def scores(question: str, found: Sequence[Candidate], embedder: Any = None) -> np.ndarray:
    """(N,) how well each passage answers a question: log-odds among the others, and comparable
    between questions."""
    return fitted("rerank", embedder is not None)(features(question, found, embedder))


def features(question: str, found: Sequence[Candidate], embedder: Any = None) -> np.ndarray:
    """(N, F)."""
    asked = [w for w in dict.fromkeys(re.findall(r"\w+", question.lower())) if w not in STOP]
    windows = [windows_of(each.text) for each in found]
    weight = rarity(asked, windows)
    hard, soft = matches(asked, windows, embedder)
    top = max((each.bm25 or 0.0 for each in found), default=0.0) or 1.0
    near = max((each.cosine or 0.0 for each in found), default=0.0)
    pairs = set(pairwise(asked))
    soft_whole = [float(s.max(1) @ weight) for s in soft]
    rows = []
    for i, each in enumerate(found):
        best = int((soft[i].T @ weight).argmax())
        rows.append([
            (each.bm25 or 0.0) / top,
            rank(each.by_words),
            each.cosine or 0.0,
            (each.cosine or 0.0) - near,
            rank(each.by_meaning),
            float(hard[i].max(1) @ weight),
            float((hard[i].T @ weight).max()),
            together(pairs, each.text) / max(len(pairs), 1),
            soft_whole[i],
            float((soft[i].T @ weight).max()),
            soft_whole[i] - max(soft_whole),
            float(wanted(question, windows[i][best])),
            np.log1p(len(each.text)) / 7,
        ])  # fmt: skip
    return np.array(rows).reshape(len(found), len(FEATURES))


def rank(number: int | None) -> float:
    """1 for the first, less for the next; 0 for one that was not found."""
    return 4 / (3 + number) if number else 0.0


def windows_of(text: str) -> list[str]:
    """Every two sentences that follow one another."""
    parts = sentences(text)
    return [f"{a} {b}" for a, b in pairwise(parts)] or [text]


def rarity(asked: Sequence[str], windows: Sequence[Sequence[str]]) -> np.ndarray:
    """(Q,) weights of the question's words that sum to one: those in few of the passages count more."""
    held = [content(" ".join(parts)) for parts in windows]
    counts = np.array([sum(stem(word) in there for there in held) for word in asked])
    weight = np.log1p(len(windows) / (1 + counts))
    return weight / max(weight.sum(), 1e-9)


def matches(
    asked: Sequence[str], windows: Sequence[Sequence[str]], embedder: Any
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of each passage (Q, windows): whether a window has a word of the question by its stem, and
    how near its nearest word is (cosine of word vectors; without an embedder the same again)."""
    tokens = [[re.findall(r"\w+", part.lower()) for part in parts] for parts in windows]
    vocabulary = sorted({word for parts in tokens for part in parts for word in part})
    place = {word: i for i, word in enumerate(vocabulary)}
    same = np.array([stem(word) for word in vocabulary])
    equal = (np.array([[stem(word)] for word in asked] or [[""]]) == same).astype(np.float32)
    nearness = equal
    if embedder is not None and vocabulary:
        vectors = embedder.word_vectors([*(asked or [""]), *vocabulary])
        sims = vectors[: len(equal)] @ vectors[len(equal) :].T
        nearness = np.maximum(equal, np.clip(sims, 0, 1))
    if not asked:
        equal, nearness = equal[:0], nearness[:0]
    hard, soft = [], []
    for parts in tokens:
        chosen = [[place[word] for word in part] for part in parts if part] or [[0]]
        starts = np.cumsum([0, *map(len, chosen[:-1])])
        flat = np.concatenate(chosen).astype(int)
        hard.append(np.maximum.reduceat(equal[:, flat], starts, axis=1))
        soft.append(np.maximum.reduceat(nearness[:, flat], starts, axis=1))
    return hard, soft


def together(pairs: set[tuple[str, str]], text: str) -> int:
    """How many pairs of words that follow one another in the question do so in the text."""
    words = [word for word in re.findall(r"\w+", text.lower()) if word not in STOP]
    return len(pairs & set(pairwise(words)))


def wanted(question: str, text: str) -> bool:
    """Whether a text has what a question asks for: a number, a place, a name."""
    asked = question.lower()
    if "how many" in asked or "how much" in asked or "when" in asked:
        return NUMBER.search(text.lower()) is not None
    if "where" in asked or "place" in asked:
        return PLACE.search(text) is not None
    return "who" not in asked or NAME.search(text) is not None
