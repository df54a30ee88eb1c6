"""Parts joined and cut to passages of some 300 tokens, which are found and cited: never across a
heading, cut between sentences where a part is longer."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from daedal.assist.documents.parts import Part

LONG = 1200  # characters of a passage, about
SENTENCE = re.compile(r"""(?<=[.!?])["')\]]?\s+(?=["'(\[]?[A-Z0-9])|\n""")


@dataclass(frozen=True)
class Passage:
    """A text of a file, the headings above it, and where it begins."""

    text: str
    heading: str
    place: str

    @property
    def indexed(self) -> str:
        """What it is found by: its headings stand in front."""
        return f"{self.heading}\n{self.text}" if self.heading else self.text


def passages_of(parts: Sequence[Part]) -> list[Passage]:
    """Passages of the parts of a file, in order."""
    return [
        passage
        for _, same in groupby(parts, lambda part: part.heading)
        for passage in joined(list(same))
    ]


def joined(parts: list[Part]) -> Iterator[Passage]:
    """Of parts under one heading."""
    heading = " > ".join(parts[0].heading)
    held: list[str] = []
    place = parts[0].place
    for part in parts:
        for piece in pieces(part.text):
            if held and sum(map(len, held)) + len(piece) > LONG:
                yield Passage("\n".join(held), heading, place)
                held, place = [], part.place
            place = place if held else part.place
            held.append(piece)
    if held:
        yield Passage("\n".join(held), heading, place)


def pieces(text: str) -> Iterator[str]:
    """A text in runs of sentences of at most LONG characters, or of words where a sentence is
    longer."""
    if len(text) <= LONG:
        yield text
        return
    held = ""
    for sentence in sentences(text):
        while len(sentence) > LONG:
            cut = sentence.rfind(" ", 1, LONG)
            cut = LONG if cut < 1 else cut
            yield from filter(None, (held, sentence[:cut]))
            held, sentence = "", sentence[cut:].lstrip()
        if held and len(held) + len(sentence) > LONG:
            yield held
            held = ""
        held = f"{held} {sentence}".strip()
    if held:
        yield held


def sentences(text: str) -> list[str]:
    """The sentences of a text."""
    return [part.strip() for part in SENTENCE.split(text) if part and part.strip()]
