"""Whether a text says what a sentence claims: a small network over how the sentence's words stand in
the place of the text that is most like it. Words by stems and word vectors, names and numbers with
what stands beside them, negations, opposites, the order of what acts and what is acted on.

The weights (`verify.json`) are fitted on claims made of books that no figure is measured on, true
ones in other words and false ones by small changes (`daedal.evals.claims`,
`benchmarks/documents.py fit`). It is trained on changes of a few kinds, and knows no more of
language than its features.

Legend: F features, Q words of the claim, W words of a place."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from daedal.assist.documents.passages import sentences
from daedal.assist.documents.perceptron import fitted
from daedal.assist.documents.rerank import matches, windows_of
from daedal.assist.documents.words import STOP, stem, stems

NOT = frozenset(["not", "never", "no", "none", "nothing", "nobody", "without", "neither", "nor", "cannot", "t"])  # fmt: skip
OPPOSITES = "old young|big small|large little|great small|high low|long short|good bad|rich poor|happy sad|hot cold|warm cool|dark light|first last|early late|open closed|opened closed|opened shut|up down|in out|inside outside|before after|above below|over under|left right|black white|day night|morning evening|man woman|men women|boy girl|boys girls|father mother|brother sister|son daughter|husband wife|king queen|began ended|came went|bought sold|gave took|won lost|found lost|loved hated|laughed wept|rose fell|raised lowered|lived died|alive dead|strong weak|quick slow|quickly slowly|loud quiet|full empty|near far|always never|more less|many few|most least|everyone nobody|everything nothing|wet dry|clean dirty|brave afraid|kind cruel|easy hard|true false|with without|to from|remembered forgot|asked answered|arrived left|entered left|north south|east west|summer winter|hour minute|hours minutes|days weeks|day week|weeks months|month year|months years|miles yards|feet inches|pounds shillings|dollars cents"  # fmt: skip
UNITS = frozenset(["hour", "hours", "minute", "minutes", "day", "days", "week", "weeks", "month", "months", "year", "years", "mile", "miles", "yard", "yards", "feet", "inches", "pounds", "shillings", "dollars", "cents"])  # fmt: skip
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred", "thousand", "dozen"]  # fmt: skip
VALUES = {word: str(n if n < 20 else 10 * (n - 18)) for n, word in enumerate(DIGITS[:28])}
VALUES |= {"hundred": "100", "thousand": "1000", "dozen": "12"}
del VALUES["one"]  # which is a pronoun more often than a number
NUMBER = re.compile(rf"\b(?:{'|'.join(VALUES)})\b", re.IGNORECASE)
FEATURES = ("hard", "hard_whole", "soft", "soft_whole", "worst", "second", "numbers", "names", "names_whole", "negation", "opposites", "inverted", "names_inverted", "bigrams", "near_pairs", "beside_names", "beside_numbers", "added", "size", "cosine")  # fmt: skip


def opposites() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for pair in OPPOSITES.split("|"):
        a, b = pair.split()
        found.setdefault(a, set()).add(b)
        found.setdefault(b, set()).add(a)
    return found


OPPOSITE = opposites()


def support(claim: str, text: str, embedder: Any = None) -> float:
    """The chance that a text says what a sentence claims, as fitted; one without words claims
    nothing that could be found."""
    if not words(claim):
        return 0.0
    odds = fitted("verify", embedder is not None)(features(claim, text, embedder)[None])[0]
    return float(1 / (1 + np.exp(-odds)))


def features(claim: str, text: str, embedder: Any = None) -> np.ndarray:
    """(F,)."""
    claim, text = in_digits(claim), in_digits(text)
    asked = list(dict.fromkeys(w for w in words(claim) if w not in STOP)) or words(claim)[:1]
    windows = windows_of(text)
    hard, soft = (found[0] for found in matches(asked, [windows], embedder))
    best = int((soft.sum(0) + hard.sum(0)).argmax())
    place = narrowed(asked, windows[best])
    near = np.sort(soft[:, best])
    own, there = words(claim), words(place)
    stemmed = [stem(word) for word in there if word not in STOP]
    near_in_meaning = 0.0
    if embedder is not None:
        vectors = embedder.embed([claim, place])
        near_in_meaning = float(vectors[0] @ vectors[1])
    names, numbers = names_of(claim), [w for w in own if w.isdigit()]
    order = [stemmed.index(s) for s in stems(claim) if s in stemmed]
    called = [there.index(name) for name in names if name in there]
    return np.array([
        hard[:, best].mean(),
        hard.max(1).mean(),
        soft[:, best].mean(),
        soft.max(1).mean(),
        near[0],
        near[min(1, len(near) - 1)],
        sum(w not in there for w in numbers),
        sum(name not in there for name in names),
        sum(name not in words(text) for name in names),
        abs(negations(own) - negations(there_of(own, place))),
        sum(bool(OPPOSITE.get(w, set()) & set(there)) for w in own if w not in there),
        inversions(order),
        inversions(called),
        share(pairwise(stems(claim)), set(pairwise(stemmed))),
        share(pairwise(stems(claim)), within(stemmed, 4)),
        beside(names, own, there),
        beside(numbers, own, there),
        sum(w not in there for w in own if w in NOT or w in UNITS),
        len(own) / max(len(there), 1),
        near_in_meaning,
    ])  # fmt: skip


def in_digits(text: str) -> str:
    """With "ten", "twenty-five" and "two hundred" as 10, 25 and 200."""
    text = NUMBER.sub(lambda found: VALUES[found[0].lower()], text)
    text = re.sub(
        r"\b([2-9]0)[- ]([1-9])\b", lambda found: str(int(found[1]) + int(found[2])), text
    )
    product = re.compile(r"\b(\d{1,3}) (100|1000)\b")
    return product.sub(lambda found: str(int(found[1]) * int(found[2])), text)


def words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+|\d+", text.lower())


def narrowed(asked: Sequence[str], window: str) -> str:
    """The sentence of a window that has most of the words, or all of it where two share them."""
    wanted = {stem(word) for word in asked}
    parts = sentences(window)
    counts = [len(wanted & set(stems(part))) for part in parts]
    whole = len(wanted & set(stems(window)))
    return parts[counts.index(max(counts))] if counts and max(counts) >= 0.8 * whole else window


def there_of(claim: Sequence[str], place: str) -> list[str]:
    """The clauses of a place that share a word of content with the claim: what is denied elsewhere
    in it is not what is claimed."""
    wanted = {stem(word) for word in claim if word not in STOP}
    clauses = re.split(r"[,;:]| -- ", place)
    return [word for clause in clauses if wanted & set(stems(clause)) for word in words(clause)]


def names_of(text: str) -> list[str]:
    """Names, in lower case: words with a capital that is not a sentence's, or of no other use."""
    found = re.findall(r"(?<![.!?] )(?<!^)(?<!^\")\b[A-Z][a-z]+", text)
    first = re.match(r"\W*([A-Z][a-z]+)", text)
    if first and first[1].lower() not in STOP:
        found.insert(0, first[1])
    return [name.lower() for name in dict.fromkeys(found)]


def negations(said: Sequence[str]) -> int:
    return sum(word in NOT for word in said) % 2


def inversions(order: Sequence[int]) -> float:
    """The share of neighbours that stand the other way round."""
    return sum(a > b for a, b in pairwise(order)) / max(len(order) - 1, 1)


def share(wanted: Any, there: set[tuple[str, str]]) -> float:
    pairs = list(wanted)
    return sum(pair in there for pair in pairs) / len(pairs) if pairs else 1.0


def within(said: Sequence[str], reach: int) -> set[tuple[str, str]]:
    """Pairs in this order with less than `reach` words between."""
    return {(a, b) for i, a in enumerate(said) for b in said[i + 1 : i + 1 + reach]}


def beside(marked: Sequence[str], own: Sequence[str], there: Sequence[str]) -> float:
    """Of names or numbers: the share whose next words of content stand behind them there too."""
    hits = [follows(word, own) & follows(word, there) for word in marked]
    return sum(map(bool, hits)) / len(hits) if hits else 1.0


def follows(word: str, said: Sequence[str]) -> set[str]:
    """Stems of the two words of content behind each place of a word."""
    found: set[str] = set()
    for i, each in enumerate(said):
        if each == word:
            found |= {stem(w) for w in [w for w in said[i + 1 :] if w not in STOP][:2]}
    return found
