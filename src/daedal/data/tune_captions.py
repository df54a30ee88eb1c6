"""What a caption says of a tune: "a lively jig in D major for fiddle, 120 bpm, 16 bars"."""

import re
from dataclasses import dataclass

from daedal.data.tunes import FORMS, METRES, RHYTHMS

KEY = re.compile(
    r"\b(?:in\s+|key\s+of\s+)?([A-G])[ -]?(sharp|flat|#|b|♯|♭)?[ -]?(major|minor|maj|min|dorian|mixolydian|m)\b|\bin\s+([A-G])[ -]?(sharp|flat|#|b|♯|♭)?(?![\w'])"
)
SIGNS = {"sharp": "#", "♯": "#", "#": "#", "flat": "b", "♭": "b", "b": "b"}
MODE = {"maj": "major", "min": "minor", "m": "minor"}
FAST, SLOW = (
    ("lively", "fast", "quick", "brisk", "energetic", "driving"),
    ("slow", "gentle", "calm", "soft", "quiet", "tender"),
)
SAD, GLAD = (
    ("sad", "melancholy", "mournful", "wistful", "lonely", "dark"),
    ("happy", "merry", "cheerful", "joyful", "bright"),
)
PARTS = {"one": "A", "two": "AABB", "three": "AABBCC", "four": "AABBCCDD"}
INSTRUMENTS = {  # words -> the synthesiser's name
    "fiddle": "fiddle", "violin": "fiddle", "flute": "flute", "whistle": "whistle", "recorder": "flute", "pipes": "pipes", "bagpipes": "pipes",
    "accordion": "accordion", "concertina": "concertina", "harp": "harp", "guitar": "guitar", "mandolin": "mandolin", "banjo": "banjo",
    "piano": "piano", "bells": "bells", "glockenspiel": "bells", "music box": "bells", "organ": "organ", "oboe": "oboe", "clarinet": "clarinet",
}  # fmt: skip
# what a word for a rhythm is called here
NAMES = {
    "polka": "polka",
    "waltz": "waltz",
    "reel": "reel",
    "jig": "jig",
    "slip jig": "slip jig",
    "slipjig": "slip jig",
    "hornpipe": "hornpipe",
    "strathspey": "strathspey",
    "march": "march",
    "air": "air",
    "lullaby": "air",
    "clog": "clog",
    "dance": "dance",
    "song": "air",
}


@dataclass(frozen=True)
class Caption:
    """What is said; None where nothing is."""

    rhythm: str | None = None
    metre: str | None = None
    tonic: str | None = None
    mode: str | None = None
    bpm: float | None = None
    pace: float = 1.0  # of the rhythm's usual tempo
    form: str | None = None
    bars: int | None = None
    instrument: str | None = None


def read(text: str) -> Caption:
    """What a caption says. Words that it does not know say nothing."""
    low = text.lower()
    tonic, mode = key_in(text)
    rhythm = word_in(low, NAMES, plural=True)
    metre = next((m for m in METRES if m in low), None)
    bpm = re.search(r"(\d+(?:\.\d+)?)\s*(?:bpm|beats)", low)
    bars = re.search(r"(\d+)[ -]?bars?\b", low)
    mood = "minor" if any_of(low, SAD) else "major" if any_of(low, GLAD) else None
    pace = 1.12 if any_of(low, FAST) else 0.75 if any_of(low, SLOW) else 1.0
    return Caption(
        rhythm,
        metre,
        tonic,
        mode or mood,
        float(bpm[1]) if bpm else None,
        pace,
        form_in(text),
        int(bars[1]) if bars else None,
        word_in(low, INSTRUMENTS),
    )


def key_in(text: str) -> tuple[str | None, str | None]:
    """("F#", "minor") of "F sharp minor"; a mode may be said without a key."""
    match = KEY.search(text)
    if match is None:
        alone = re.search(r"\b(major|minor|dorian|mixolydian)\b", text.lower())
        return None, alone[1] if alone else None
    letter, sign, mode = match[1] or match[4], match[2] or match[5] or "", match[3] or ""
    return letter + SIGNS.get(sign, ""), MODE.get(mode, mode) or None


def form_in(text: str) -> str | None:
    written = re.findall(r"\b(A{1,2}(?:B{1,2}(?:C{1,2}(?:D{1,2})?)?)?)\b", text)
    forms = [form for form in written if form in FORMS and form != "A"]  # a letter is a key's
    if forms:
        return forms[0]
    parts = re.search(r"\b(one|two|three|four)[ -](?:part|strain|section)s?\b", text.lower())
    return PARTS[parts[1]] if parts else None


def word_in(text: str, names: dict[str, str], plural: bool = False) -> str | None:
    """The name of the longest known word in a text."""
    ending = "(?:e?s)?" if plural else ""
    for word in sorted(names, key=len, reverse=True):
        if re.search(rf"\b{word}{ending}\b", text):
            return names[word]
    return None


def any_of(text: str, words: tuple[str, ...]) -> bool:
    return any(re.search(rf"\b{word}\b", text) for word in words)


def usual_bpm(rhythm: str) -> int:
    return RHYTHMS[rhythm][1]
