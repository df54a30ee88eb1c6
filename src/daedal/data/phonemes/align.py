"""Which letters of a word stand for which phonemes: every letter gets none, one or two of them, in
order, found by hard expectation-maximisation over a dictionary (the one-to-many alignment of
Jiampojamarn et al. 2007)."""

from collections import Counter
from collections.abc import Iterable
from math import log

from daedal.data.phonemes.arpabet import Reading, unstressed

Chunks = tuple[Reading, ...]  # the phonemes of each letter
MOST = 2  # phonemes of a letter: x is K S
ROUNDS = 4
Costs = dict[tuple[str, Reading], float]


def aligned(pairs: Iterable[tuple[str, Reading]]) -> dict[tuple[str, Reading], Chunks]:
    """(word, reading) -> the phonemes of each letter; a reading too long for its word is left out."""
    pairs = list(pairs)
    costs = first_costs(pairs)
    for _ in range(ROUNDS):
        paths = {pair: path for pair in pairs if (path := best(*pair, costs))}
        costs = costs_of(
            chunk for pair, path in paths.items() for chunk in zip(pair[0], path, strict=True)
        )
    return paths


def first_costs(pairs: list[tuple[str, Reading]]) -> Costs:
    """From how often a letter and a phoneme stand at the same share of their words."""
    counts: Counter[tuple[str, Reading]] = Counter()
    for word, reading in pairs:
        phonemes = unstressed(reading)
        for i, phoneme in enumerate(phonemes):
            counts[word[i * len(word) // len(phonemes)], (phoneme,)] += 1
    costs = costs_of(counts.elements())
    for letter in {letter for letter, _ in costs}:
        costs[letter, ()] = 3.0
    return costs


def costs_of(chunks: Iterable[tuple[str, Reading]]) -> Costs:
    """-log of the share that each chunk has of its letter."""
    counts = Counter((letter, unstressed(phonemes)) for letter, phonemes in chunks)
    letters: Counter[str] = Counter()
    for (letter, _), n in counts.items():
        letters[letter] += n
    return {(letter, chunk): -log(n / letters[letter]) for (letter, chunk), n in counts.items()}


def best(word: str, reading: Reading, costs: Costs, rare: float = 12.0) -> Chunks | None:
    """The cheapest way to spread a reading over a word's letters."""
    phonemes, n = unstressed(reading), len(reading)
    reached: list[tuple[float, Chunks] | None] = [(0.0, ()), *[None] * n]
    for letter in word:
        after: list[tuple[float, Chunks] | None] = [None] * (n + 1)
        for at, state in enumerate(reached):
            if state is None:
                continue
            for size in range(min(MOST, n - at) + 1):
                chunk = phonemes[at : at + size]
                cost = state[0] + costs.get((letter, chunk), rare * max(1, size))
                old = after[at + size]
                if old is None or cost < old[0]:
                    after[at + size] = (cost, (*state[1], reading[at : at + size]))
        reached = after
    return reached[n][1] if reached[n] else None
