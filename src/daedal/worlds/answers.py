"""What a program can tell of an answer in simple English: whether it names what it should, keeps to
a form and a length, declines, and is one that a small model should learn from."""

import re

from daedal.worlds.lexicon import plural
from daedal.worlds.stories import says, sentences, words

STIFF = (
    "as an ai", "language model", "ai assistant", "i'm sorry, but", "i cannot", "certainly", "sure,", "sure!", "of course",
    "here is", "here are", "here's", "programming", "code", "alibaba", "qwen", "python", "[", "http",
)  # fmt: skip


LEAST = {
    "advice": 8,
    "feeling": 9,
    "explain": 6,
    "why": 6,
    "think": 5,
    "describe": 7,
    "note": 7,
    "rhyme": 8,
}


def plainly(text: str, most: int) -> dict[str, bool]:
    """Whole sentences, at most so many, none twice, and no refusal."""
    found = sentences(text)
    met = {"length": 1 <= len(found) <= most, "no repeats": len(set(found)) == len(found)}
    return met | {"answered": not declines(text)}


def declines(text: str) -> bool:
    """Whether an answer says that it does not know, or will not help."""
    return refuses(text) or any(says(text, no) for no in ("will not help", "not safe"))


def refuses(text: str) -> bool:
    """Whether an answer says that it does not know."""
    phrases = ("don't know", "do not know", "does not say", "doesn't say")
    return any(says(text, phrase) for phrase in phrases)


def fit_to_learn(kind: str, text: str) -> bool:
    """Whether an answer is one to learn from: plain ASCII, not stiff, nothing over and over, few
    long words, long enough for its kind, and brought to an end."""
    said, low = words(text), text.lower()
    if (
        len(said) < LEAST.get(kind, 1)
        or not text.isascii()
        or any(phrase in low for phrase in STIFF)
    ):
        return False
    triples = list(zip(said, said[1:], said[2:], strict=False))
    repeats = len(triples) - len(set(triples))
    long = sum(len(word) > 10 for word in said) / len(said)
    ended = text.rstrip()[-1] in '.!?"' or "," in text or "\n" in text
    return ended and repeats <= len(triples) * 0.12 and long <= 0.08 and len(said) <= 110


def mentions(text: str, noun: str) -> bool:
    """Whether a noun, one or many, stands in the text."""
    return says(text, noun) or says(text, plural(noun)) or f" {noun}'s" in text.lower()


# ---- lists ---------------------------------------------------------------------------------------


def in_form(how: str, text: str) -> dict[str, bool]:
    """Whether a list is as the words of its request say, where they say it."""
    lines = [line.strip() for line in text.strip().splitlines()]
    if "omma" in how:
        return {"form": (len(lines) == 1 and "," in text) or " and " in text}
    if "ine" in how:
        return {"form": len(lines) > 1}
    if "dash" in how:
        return {"form": all(line.startswith("- ") for line in lines)}
    if "umber" in how:
        return {"form": all(re.match(rf"{i}[.)] ", line) for i, line in enumerate(lines, 1))}  # type: ignore[dict-item]
    return {}


def items_of(text: str) -> list[str]:
    """The items of a list in lines, or with commas and a last "and"."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    parts = lines if len(lines) > 1 else re.split(r",\s*(?:and\s+)?|\s+and\s+", text.strip())
    marks = r"^\s*(?:[-*]|\d+[.)])\s*"
    return [item for part in parts if (item := re.sub(marks, "", part).strip(" .").lower())]


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
