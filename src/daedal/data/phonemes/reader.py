"""A text as a voice reads it: sentences of words with their phonemes, punctuation, pauses and
emphasis.

    reader = Reader(Speller.load(folder))
    for sentence in reader.sentences("Dr. Smith *never* left. [pause 1s] Why?"):
        sentence.words                     # Word("doctor", ("D", ...)), ...

Marks in the text: `*word*` or `*some words*` emphasises, `[pause 0.5s]` (or `[pause 500ms]`) is a
pause, an empty line a longer one."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

from daedal.data.phonemes import heteronyms
from daedal.data.phonemes.arpabet import Reading
from daedal.data.phonemes.normalise import ABBREVIATIONS, normalise
from daedal.data.phonemes.speller import Speller
from daedal.errors import DaedalError

PAUSE = re.compile(r"\[pause\s+(\d+(?:\.\d+)?)\s*(ms|s)\]", re.IGNORECASE)
EMPHASIS = re.compile(r"(?<![\w*])\*(?=\S)([^*\n]+?)(?<=\S)\*(?![\w*])")
OPEN, CLOSE = "\ue000", "\ue001"  # where emphasis begins and ends, private to us
TOKEN = re.compile(rf"[A-Za-z]+(?:'[A-Za-z]+)*'?|[,.;:!?()\"{OPEN}{CLOSE}]|--")
# a full stop that ends a sentence: behind it a space and no small letter
END = re.compile(r"[.!?]+[\"')\]]*(?=\s+[\"'(\[*]*[^a-z\s])|[.!?]+[\"')\]]*\s*$")
LONGEST = 320  # characters of a piece that is read at once; longer sentences are cut at a comma
PARAGRAPH, SENTENCE = 0.55, 0.22  # seconds of silence behind one
LETTER_NAMES = {
    "A": "EY1",
    "E": "IY1",
    "I": "AY1",
    "O": "OW1",
    "U": "Y UW1",
    "W": "D AH1 B AH0 L Y UW0",
    "Y": "W AY1",
    "H": "EY1 CH",
    "R": "AA1 R",
    "Z": "Z IY1",
    "J": "JH EY1",
    "K": "K EY1",
    "Q": "K Y UW1",
    "X": "EH1 K S",
    "S": "EH1 S",
    "F": "EH1 F",
    "L": "EH1 L",
    "M": "EH1 M",
    "N": "EH1 N",
    "B": "B IY1",
    "C": "S IY1",
    "D": "D IY1",
    "G": "JH IY1",
    "P": "P IY1",
    "T": "T IY1",
    "V": "V IY1",
}


@dataclass(frozen=True)
class Word:
    """A spoken word with its phonemes, or a mark of punctuation without any."""

    text: str
    reading: Reading = ()
    emphasised: bool = False


@dataclass
class Sentence:
    """What is read in one breath: as it was written, its words, and the silence behind it."""

    text: str
    words: list[Word] = field(default_factory=list)
    pause: float = SENTENCE


class Reader:
    """Text to sentences. `speller` knows how single words are read."""

    def __init__(self, speller: Speller) -> None:
        self.speller = speller

    def sentences(self, text: str) -> Iterator[Sentence]:
        """Every sentence with something to read. Raises DaedalError where there is none."""
        found = False
        for written, pause in pieces(text):
            words = self.words(written)
            if any(word.reading for word in words):
                found = True
                yield Sentence(EMPHASIS.sub(r"\1", written), words, pause)
            elif found and pause > PARAGRAPH:  # a pause that was asked for, by itself
                yield Sentence("", [], pause)
        if not found:
            raise DaedalError(unreadable(text))

    def words(self, written: str) -> list[Word]:
        marked = EMPHASIS.sub(rf"{OPEN} \1 {CLOSE}", written)
        tokens = TOKEN.findall(normalise(marked))
        spoken = [token.lower().strip("'") or token for token in tokens]
        spells = spelt(tokens)
        made, loud = list[Word](), False
        for i, token in enumerate(tokens):
            if token in (OPEN, CLOSE):
                loud = token == OPEN
            elif not token[0].isalpha():
                made.append(Word(token))
            elif spells[i]:
                made.append(Word(token, tuple(LETTER_NAMES[token].split()), loud))
            else:
                reading = heteronyms.reading(spoken, i) or self.word(spoken[i])
                made.append(Word(spoken[i], reading, loud))
        return made

    def word(self, word: str) -> Reading:
        """A possessive or plural that is not known is read as its stem with an s."""
        speller = self.speller
        if word.endswith("'s") and word not in speller.known:
            stem = self.word(word[:-2])
            return (*stem, *sibilant(stem))
        return speller(word)


class Verbatim:
    """Text to sentences that are not spelt, for voices that read letters themselves."""

    def sentences(self, text: str) -> Iterator[Sentence]:
        """Every sentence, each of one word. Raises DaedalError where there is none."""
        if not text.strip():
            raise DaedalError(unreadable(text))
        for written, pause in pieces(text):
            words = [Word(written)] if written else []
            yield Sentence(EMPHASIS.sub(r"\1", written), words, pause)


def spelt(tokens: list[str]) -> list[bool]:
    """Which tokens are single capital letters to be spelt, not the words I, A and O."""
    single = [len(token) == 1 and token.isupper() for token in tokens]
    return [
        here
        and (
            token not in "AIO"
            or single[max(0, i - 1) : i] == [True]
            or single[i + 1 : i + 2] == [True]
        )
        for i, (token, here) in enumerate(zip(tokens, single, strict=True))
    ]


def sibilant(stem: Reading) -> Reading:
    """The s of a possessive, after what it follows."""
    last = stem[-1] if stem else ""
    if last in ("S", "Z", "SH", "ZH", "CH", "JH"):
        return ("IH0", "Z")
    return ("S",) if last in ("P", "T", "K", "F", "TH") else ("Z",)


def pieces(text: str) -> Iterator[tuple[str, float]]:
    """(what is read at once, seconds of silence behind it)."""
    parts = PAUSE.split(text)
    for i in range(0, len(parts), 3):
        asked = seconds(*parts[i + 1 : i + 3]) if i + 2 < len(parts) else 0.0
        paragraphs = [each for each in re.split(r"\n\s*\n", parts[i]) if each.strip()]
        for j, paragraph in enumerate(paragraphs):
            cut = list(sentences(" ".join(paragraph.split())))
            for k, sentence in enumerate(cut):
                last = k == len(cut) - 1
                pause = (PARAGRAPH if last else SENTENCE) if sentence[-1:] not in ",;:" else 0.08
                final = last and j == len(paragraphs) - 1
                yield sentence, (asked or pause) if final else pause
        if asked and not paragraphs:
            yield "", asked


def seconds(amount: str, unit: str) -> float:
    length = float(amount) / (1000 if unit.lower() == "ms" else 1)
    if length > 60:
        raise DaedalError(f"a pause of {length:g} s is longer than 60 s; write a shorter one.")
    return length


def sentences(paragraph: str) -> Iterator[str]:
    """A paragraph cut behind its full stops, and where a sentence is very long behind a comma."""
    start = 0
    for match in END.finditer(paragraph):
        before = re.search(r"(\w+)\.$", paragraph[start : match.start() + 1])
        if before and (before[1] in ABBREVIATIONS or (len(before[1]) == 1 and before[1].isupper())):
            continue
        yield from short(paragraph[start : match.end()].strip())
        start = match.end()
    if rest := paragraph[start:].strip():
        yield from short(rest)


def short(sentence: str) -> Iterator[str]:
    while len(sentence) > LONGEST:
        cuts = [m.end() for m in re.finditer(r"[,;:]\s|\s--\s|\s", sentence[:LONGEST])]
        good = [m.end() for m in re.finditer(r"[,;:]\s|\s--\s", sentence[:LONGEST]) if m.end() > 80]
        at = (good or cuts or [LONGEST])[-1]
        yield sentence[:at].strip()
        sentence = sentence[at:].strip()
    if sentence:
        yield sentence


def unreadable(text: str) -> str:
    """Why there is nothing to read."""
    letters = [c for c in text if c.isalpha()]
    if not text.strip():
        return "there is no text to read; give some words."
    if not letters:
        return f"{text.strip()[:40]!r} holds no word; this voice reads English words and numbers."
    script = unicodedata.name(letters[0], "unknown").split()[0].capitalize()
    return f"{text.strip()[:40]!r} is written in {script} letters; this voice reads English, in Latin ones."
