"""Claims about texts, made by program: true ones, which say in other words what a sentence of the
text says, and false ones, in which moreover one thing is changed: who, how many, whether, where, by
which unit, who to whom, an opposite, an invented addition; or which another place of the same book
says.

    for claim in claims(passages, random.Random(0), 500): claim.text, claim.source, claim.kind

What somebody says in a text is claimed as reported speech, and some claims are the words of a
question with a name in the place of "who", as models answer.
A true and a false claim are made of the same sentences in the same way, so that other words alone
tell nothing."""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from daedal.assist.documents.passages import sentences
from daedal.assist.documents.verify import DIGITS, OPPOSITE, UNITS
from daedal.assist.documents.words import content
from daedal.evals.book_questions import (
    IRREGULAR,
    NAME,
    NUMBERS,
    PHRASE,
    SAYING,
    TITLES,
    Names,
    Question,
    asked,
    owners_of,
    reported,
    reworded,
)

TRUE = "true"
HELD_OUT = ("unit", "addition")  # never in what a verifier is fitted on
CHANGES = ("name", "number", "negation", "opposite", "roles", "elsewhere", *HELD_OUT)
AUXILIARY = re.compile(r"\b(was|were|is|are|had|has|could|would|should|must|might|will|can)\b")
DENIED = re.compile(r"\b(was|were|is|are|had|has|could|would|should|must|did|do|might|will|can) not\b|\bnever\b")  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A sentence, the text that it is about, and what was changed (`true`: nothing)."""

    text: str
    source: str
    kind: str

    @property
    def supported(self) -> bool:
        return self.kind == TRUE


def claims(
    passages: Sequence[str], rng: random.Random, count: int, kinds: Sequence[str] = CHANGES
) -> list[Claim]:
    """Up to `count` claims, half of them true, the false ones of all kinds alike."""
    known, owners = Names(passages), owners_of(passages)
    false: dict[str, list[Claim]] = {kind: [] for kind in kinds}
    true: list[Claim] = []
    wanted = -(-count // (2 * len(kinds)))
    for number in rng.sample(range(len(passages)), len(passages)):
        source = passages[number]
        able = told(source) + speeches(source, known)
        able += echoes(asked(source, number, known, owners, rng))
        for sentence in rng.sample(able, min(2, len(able))):
            said = first_clause(sentence) if rng.random() < 0.6 else sentence
            made = dict(changed(said, passages, number, known, rng))
            open_kinds = [k for k in kinds if k in made and len(false[k]) < wanted]
            if not open_kinds:
                continue
            kind = min(open_kinds, key=lambda k: len(false[k]))
            false[kind].append(Claim(in_other_words(made[kind], rng), source, kind))
            true.append(Claim(in_other_words(said, rng), source, TRUE))
        if all(len(some) == wanted for some in false.values()):
            break
    return true + [claim for some in false.values() for claim in some]


def told(text: str) -> list[str]:
    """The sentences of a text that tell something: no speech, 6 to 35 words, with a verb."""
    return [
        s
        for s in sentences(text)
        if re.match(r"[A-Z]", s)
        and '"' not in s
        and s.endswith(".")
        and not re.search(rf"\b(?:{TITLES})\.$", s)
        and 6 <= len(s.split()) <= 35
        and len(content(first_clause(s))) >= 4
        and any(word.endswith("ed") or word in IRREGULAR for word in first_clause(s).split())
    ]


def speeches(text: str, known: Names) -> list[str]:
    """What somebody says in a text, as reported speech."""
    return [
        f"{found[2]} said that {reported(found[1], known)}."
        for found in re.finditer(rf'"([^"]{{30,160}}?)[,.!]" (?:{SAYING}) ({NAME})\b', text)
        if known.has(found[2])
    ]


def echoes(made: Iterable[Question]) -> list[str]:
    """Questions with their answer in the place of "who", as models answer them."""
    return [f"{q.answer}{q.text[3:-1]}." for q in made if q.text.startswith("Who ")]


def in_other_words(text: str, rng: random.Random) -> str:
    """With synonyms, and its last phrase in front: what it says stays so."""
    text = text.rstrip(",;: .")
    if rng.random() < 0.6:
        text = reworded(text, rng)
    found = PHRASE.match(text)
    if found and rng.random() < 0.5:
        text = f"{found[2][0].upper()}{found[2][1:]}, {found[1]}"
    return text + "."


def changed(
    sentence: str, passages: Sequence[str], number: int, known: Names, rng: random.Random
) -> Iterator[tuple[str, str]]:
    """(kind, the sentence with that change) of every change that it allows."""
    for kind, new in (
        ("name", other_name(sentence, passages[number], known, rng)),
        ("number", other_number(sentence, rng)),
        ("negation", denied(sentence, rng)),
        ("opposite", swapped(sentence, rng, False)),
        ("unit", swapped(sentence, rng, True)),
        ("roles", exchanged(sentence, known)),
        ("addition", added(sentence, passages, rng)),
        ("elsewhere", elsewhere(passages, number, rng)),
    ):
        if new and new != sentence:
            yield kind, new


def first_clause(sentence: str) -> str:
    """What a sentence says until at least eight words are said."""
    parts = re.split(r"(?<=[,;:]) ", sentence)
    kept = parts[0]
    for part in parts[1:]:
        if len(kept.split()) >= 8:
            break
        kept = f"{kept} {part}"
    return kept.rstrip(",;: .") + "."


def other_name(text: str, source: str, known: Names, rng: random.Random) -> str | None:
    """Somebody else, of the same passage where there is one."""
    here = [w for w in re.findall(r"\b[A-Z][a-z]{2,}\b", text) if w in known.known]
    if not here:
        return None
    name = rng.choice(here)
    near = {w for w in re.findall(r"\b[A-Z][a-z]{2,}\b", source) if w in known.known} - set(here)
    pool = sorted(near) if near and rng.random() < 0.7 else sorted(known.known - set(here))
    return re.sub(rf"\b{name}\b", rng.choice(pool), text)


def other_number(text: str, rng: random.Random) -> str | None:
    found = re.search(rf"\b(?:(?:{NUMBERS})|\d+)\b", text)
    if not found:
        return None
    if found[0].isdigit():
        new = str(max(1, int(found[0]) + rng.choice([-10, -3, -1, 1, 2, 5, 20])))
    else:
        new = rng.choice([w for w in DIGITS[2:] if w != found[0]])
    return text[: found.start()] + new + text[found.end() :]


def denied(text: str, rng: random.Random) -> str | None:
    """Denied where it is said, and said where it is denied."""
    if found := DENIED.search(text):
        rest = text[found.end() :]
        return f"{text[: found.start()]}{found[1] or ''}{rest}".replace("  ", " ")
    if re.search(r"\b(no|nothing|nobody|none|neither|nor)\b", text):
        return None
    if found := AUXILIARY.search(text):
        return f"{text[: found.end()]} {rng.choice(['not', 'never'])}{text[found.end() :]}"
    for found in re.finditer(r"\b[a-z]+\b", text):
        if found[0] in IRREGULAR or (found[0].endswith("ed") and len(found[0]) > 4):
            return f"{text[: found.start()]}never {text[found.start() :]}"
    return None


def swapped(text: str, rng: random.Random, units: bool) -> str | None:
    """An opposite, or another unit."""
    here = [w for w in re.findall(r"[a-z]+", text) if w in OPPOSITE and (w in UNITS) == units]
    here = [w for w in here if w not in ("to", "in", "with", "from", "before", "after")]
    if not here:
        return None
    word = rng.choice(here)
    return re.sub(rf"\b{word}\b", rng.choice(sorted(OPPOSITE[word])), text, count=1)


def exchanged(text: str, known: Names) -> str | None:
    """Two persons in each other's place."""
    here = [w for w in dict.fromkeys(re.findall(r"\b[A-Z][a-z]{2,}\b", text)) if w in known.known]
    if len(here) < 2 or re.search(rf"{here[0]}(?:,| and| or| {here[1]})", text):
        return None
    swap = {here[0]: here[1], here[1]: here[0]}
    return re.sub(rf"\b(?:{here[0]}|{here[1]})\b", lambda found: swap[found[0]], text)


def added(text: str, passages: Sequence[str], rng: random.Random) -> str | None:
    """With a phrase of another place."""
    other = told(rng.choice(passages))
    found = re.search(r" ((?:in|with|on|at|from|after) (?:the|a|his|her) [a-z]+(?: [a-z]+)?)", rng.choice(other) if other else "")  # fmt: skip
    return f"{text[:-1]} {found[1]}." if found else None


def elsewhere(passages: Sequence[str], number: int, rng: random.Random) -> str | None:
    """What a passage near by says."""
    near = [n for n in range(max(0, number - 5), number + 6) if abs(n - number) > 1]
    near = [n for n in near if n < len(passages)]
    found = told(passages[rng.choice(near)]) if near else []
    return first_clause(rng.choice(found)) if found else None
