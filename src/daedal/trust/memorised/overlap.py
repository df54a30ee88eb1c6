"""The longest verbatim overlap of a text with training texts, without keeping the texts: a hash of
every window of eight words and where it stands. Windows that follow each other in the result and in
one training text are a run, as seeds on a diagonal are in BLAST (Altschul et al. 1990). A run of nine
words and more hangs on two hashes of 32 bits at neighbouring places, and chance has no part in it.

Where nothing is verbatim, passages are compared by their share of common shingles: MinHash (Broder
1997) in 8 bits a permutation (Li & Koenig 2010).

Words are lower case without punctuation, a Chinese or Japanese character is a word of its own; of a
tune a word is the step from the note before and the length, so that a key makes no difference."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

WINDOW = 8  # words that are hashed together
SHINGLE = 4  # words of the sets that MinHash compares
PERMUTATIONS = 64
PASSAGE = 100  # words of a passage
COMMON = 4096  # places of one window that are followed: a phrase of all texts tells nothing
WORD = re.compile("[\u3040-\u30ff\u3400-\u9fff]|\\w(?:(?![\u3040-\u30ff\u3400-\u9fff])\\w)*")
FACTOR = np.uint64(0x9E3779B97F4A7C15)
DRAWN = np.random.default_rng(1997).integers(0, 2**63, (2, PERMUTATIONS), dtype=np.uint64)
MULTIPLY, ADD = DRAWN[0] | np.uint64(1), DRAWN[1]


@dataclass(frozen=True)
class Run:
    """Words that stand in the result and in a training text alike."""

    document: int
    start: int  # first word in the result
    words: int


@lru_cache(maxsize=1 << 20)
def number(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def words_of(text: str) -> list[str]:
    return WORD.findall(text.lower())


def windows(words: list[str], size: int) -> np.ndarray:
    """A hash of every window of `size` words, (n - size + 1,) uint64."""
    numbers = np.fromiter((number(word) for word in words), np.uint64, len(words))
    if len(words) < size:
        return numbers[:0]
    found = np.zeros(len(words) - size + 1, np.uint64)
    for i in range(size):
        found = found * FACTOR + numbers[i : i + len(found)]
    found ^= found >> np.uint64(32)
    return found * FACTOR


def passages(words: list[str]) -> np.ndarray:
    """Signatures of the passages of a text, (passages, PERMUTATIONS) uint8."""
    hashes = windows(words, min(SHINGLE, len(words)))
    cuts = np.arange(0, len(hashes), PASSAGE)
    if len(cuts) > 1 and len(hashes) - cuts[-1] < PASSAGE // 2:
        cuts = cuts[:-1]
    least = np.minimum.reduceat(hashes[:, None] * MULTIPLY + ADD, cuts, axis=0)
    return (least >> np.uint64(16)).astype(np.uint8)


@dataclass(frozen=True)
class Texts:
    """The index of many texts. Places count the words of all of them."""

    hashes: np.ndarray  # (n,) uint32, ascending
    places: np.ndarray  # (n,) uint32, of each hash
    starts: np.ndarray  # (documents + 1,) uint32: where each document begins, and the end
    signatures: np.ndarray  # (passages, PERMUTATIONS) uint8
    owners: np.ndarray  # (passages,) uint32: whose passage that is

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        hashes, places, signatures, owners, starts = [], [], [], [], [0]
        for i, text in enumerate(texts):
            words = words_of(text)
            found = (windows(words, WINDOW) >> np.uint64(32)).astype(np.uint32)
            hashes.append(found)
            places.append(np.arange(len(found), dtype=np.uint32) + np.uint32(starts[-1]))
            if words:
                signatures.append(passages(words))
                owners.append(np.full(len(signatures[-1]), i, np.uint32))
            starts.append(starts[-1] + len(words))
        joined, at = np.concatenate(hashes), np.concatenate(places)
        order = np.argsort(joined, kind="stable")
        none = np.empty((0, PERMUTATIONS), np.uint8)
        return cls(
            joined[order],
            at[order],
            np.array(starts, np.uint32),
            np.concatenate([none, *signatures]),
            np.concatenate([np.empty(0, np.uint32), *owners]),
        )

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray]) -> "Texts":
        return cls(**{name: arrays[name] for name in cls.__annotations__})

    def runs(self, words: list[str]) -> list[Run]:
        """What of a result stands in training texts, the longest first."""
        asked = (windows(words, WINDOW) >> np.uint64(32)).astype(np.uint32)
        low = np.searchsorted(self.hashes, asked, "left")
        counts = np.minimum(np.searchsorted(self.hashes, asked, "right") - low, COMMON)
        if not counts.sum():
            return []
        mine = np.repeat(np.arange(len(asked)), counts)  # places in the result
        nth = np.arange(len(mine)) - np.repeat(np.cumsum(counts) - counts, counts)
        theirs = self.places[np.repeat(low, counts) + nth].astype(np.int64)
        order = np.lexsort((mine, theirs - mine))
        mine, theirs = mine[order], theirs[order]
        new = (np.diff(theirs - mine) != 0) | (np.diff(mine) != 1)
        firsts = np.flatnonzero(np.concatenate([[True], new]))
        lengths = np.diff(np.append(firsts, len(mine))) + WINDOW - 1
        owners = np.searchsorted(self.starts, theirs[firsts], "right") - 1
        found = [
            Run(int(owner), int(start), int(length))
            for owner, start, length in zip(owners, mine[firsts], lengths, strict=True)
            if length > WINDOW
        ]
        return sorted(found, key=lambda run: (-run.words, run.start, run.document))

    def alike(self, words: list[str], most: int) -> list[tuple[int, float]]:
        """(document, estimated share of common shingles) of the passages most like one of the
        result's, above what chance gives."""
        if not words or not len(self.owners):
            return []
        same = np.stack(
            [(self.signatures == one).mean(1, dtype=np.float32) for one in passages(words)[:20]]
        ).max(0)
        found: dict[int, float] = {}
        for i in np.argsort(-same, kind="stable")[: 20 * most]:
            if same[i] < 5 / PERMUTATIONS:
                break
            found.setdefault(int(self.owners[i]), float((same[i] - 1 / 256) / (1 - 1 / 256)))
        return list(found.items())[:most]
