"""Answers from documents, with evidence: numbered sources, every sentence held against what it
cites, and no answer where there is none.

    answer = answered("When is the harvest?", index.search("When is the harvest?"), pipeline)
    answer.text, answer.sources, [s.supported for s in answer.sentences]

A sentence is supported by a passage that says so in the verifier's opinion (`verify`), and that has
every number and name of it. Where the best passage answers the question too badly, the model is not
asked."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from daedal.assist.documents.index import Hit
from daedal.assist.documents.passages import sentences
from daedal.assist.documents.verify import in_digits, support
from daedal.assist.documents.words import content

NONE = "not in your documents"
# Scores of the best passage from which it is worth asking: of a long question as `calibrate` of
# benchmarks/documents.py found it; down to one word along a line that lets everyday questions pass.
WORTH, WORTH_OF_A_WORD, WORTH_OF_NONE = 5.5, 0.8, -1.5
SUPPORTED = 0.3  # chance of support from which a sentence is let stand
CITED = re.compile(r"\s*\[(\d+(?:\s*,\s*\d+)*)\]")
STRICT = re.compile(r"\d[\d.,:]*\d|\d|(?<!^)(?<![.!?] )\b[A-Z][a-z]+\b")
ASKING = (
    "Answer the question from the numbered sources, and from nothing else, in one to three short sentences. After each sentence "
    'name its source in brackets, like [2]. If the sources do not hold the answer, write only "{none}".'
)


@dataclass(frozen=True)
class Sentence:
    """What is said, the sources it names, whether they say so, and the verifier's chance of that."""

    text: str
    cites: tuple[int, ...]
    supported: bool
    chance: float = 1.0


@dataclass(frozen=True)
class Answer:
    """`found` is whether the documents answer; where they do not, `sources` are what was searched."""

    question: str
    found: bool
    sentences: tuple[Sentence, ...]
    sources: tuple[Hit, ...]

    @property
    def text(self) -> str:
        """What is supported, with its sources."""
        if not self.found:
            return f"This is {NONE}."
        return " ".join(f"{s.text} {marks(s.cites)}" for s in self.sentences if s.supported)

    @property
    def annotations(self) -> list[dict[str, Any]]:
        """The marks of sources in `text` as OpenAI's `url_citation`s: the address is the file's name
        and the place in it."""
        found = re.finditer(r"\[(\d+)\]", self.text) if self.found else ()
        return [
            {"type": "url_citation", "url_citation": {"start_index": mark.start(), "end_index": mark.end(), **self.place(int(mark[1]))}}
            for mark in found
        ]  # fmt: skip

    def place(self, number: int) -> dict[str, str]:
        """Where a source is: {"url", "title"}."""
        hit = self.sources[number - 1]
        title = f"{hit.file}, {hit.passage.heading}" if hit.passage.heading else hit.file
        return {"url": f"{quote(hit.file)}#{quote(hit.passage.place)}", "title": title}

    def as_dict(self) -> dict[str, Any]:
        sources = [
            {"number": i, "file": hit.file, "place": hit.passage.place, "heading": hit.passage.heading, "text": hit.passage.text}
            for i, hit in enumerate(self.sources, 1)
        ]  # fmt: skip
        said = [asdict(sentence) for sentence in self.sentences]
        return {"question": self.question, "found": self.found, "text": self.text, "sentences": said, "sources": sources}  # fmt: skip


def answered(
    question: str, hits: Sequence[Hit], pipeline: Any, embedder: Any = None, **settings: Any
) -> Answer:
    """The answer of a chat model to a question, from passages. The embedder of the index helps to
    check it."""
    if not worth_asking(question, hits):
        return Answer(question, False, (), tuple(hits))
    asked = {"max_tokens": 160, "temperature": 0.0, "seed": 0, **settings}
    said = pipeline.start(messages(question, hits), **asked).result().text.strip()
    return checked(question, said, hits, embedder)


def worth_asking(question: str, hits: Sequence[Hit]) -> bool:
    """Whether the best passage may answer the question it was found for. The more words a question
    has, the higher the score of what answers it."""
    least = min(WORTH, WORTH_OF_A_WORD * len(content(question)) + WORTH_OF_NONE)
    return bool(hits) and hits[0].score >= least


def checked(question: str, said: str, hits: Sequence[Hit], embedder: Any = None) -> Answer:
    """What a model said, held against the passages."""
    if NONE in said.lower():
        return Answer(question, False, (), tuple(hits))
    found = tuple(judged(said, hits, embedder))
    return Answer(question, any(s.supported for s in found), found, tuple(hits))


def messages(question: str, hits: Sequence[Hit]) -> list[dict[str, str]]:
    """The request: sources first, so that a beginning may be kept, and the question last."""
    told = "\n\n".join(
        f"[{i}] {hit.file}{', ' + hit.passage.heading if hit.passage.heading else ''}\n{hit.passage.text}"
        for i, hit in enumerate(hits, 1)
    )
    return [
        {"role": "system", "content": ASKING.format(none=NONE)},
        {"role": "user", "content": f"Sources:\n\n{told}\n\nQuestion: {question}"},
    ]


def judged(said: str, hits: Sequence[Hit], embedder: Any = None) -> list[Sentence]:
    """The sentences of an answer. One whose sources do not say so, or without one, gets the source
    that supports it best, if any does."""
    found = []
    for sentence in sentences(moved(said)):
        numbers = [int(n) for group in CITED.findall(sentence) for n in re.split(r"\s*,\s*", group)]
        text = CITED.sub("", sentence).strip()
        cites = tuple(dict.fromkeys(n for n in numbers if 1 <= n <= len(hits)))
        if not text:
            continue
        chance = [supports(text, hit.passage.indexed, embedder) for hit in hits]
        kept = tuple(n for n in cites if chance[n - 1] >= SUPPORTED)
        best = int(np.argmax(chance)) + 1
        if not kept and chance[best - 1] >= SUPPORTED:  # another source says so
            kept = (best,)
        found.append(Sentence(text, kept or cites, bool(kept), max(chance)))
    return found


def marks(cites: Sequence[int]) -> str:
    return "".join(f"[{n}]" for n in cites)


def moved(said: str) -> str:
    """Sources that stand behind a full stop belong to the sentence before it."""
    return re.sub(r"([.!?][\"')]?)((?:\s*\[\d+(?:\s*,\s*\d+)*\])+)", r"\2\1", said)


def supports(sentence: str, text: str, embedder: Any = None) -> float:
    """The chance that a text says what a sentence says: none where it lacks a number or name."""
    strict = [word.strip(".,:") for word in STRICT.findall(in_digits(sentence))]
    if not all(stands_in(word, in_digits(text)) for word in strict):
        return 0.0
    return support(sentence, text, embedder)


def stands_in(word: str, text: str) -> bool:
    """Whether a number or name stands in a text whole: 3 is not in 13 or 3.5."""
    whole = rf"(?<![\w])(?<!\d[.,]){re.escape(word)}(?![\w]|[.,]\d)"
    return re.search(whole, text, re.IGNORECASE) is not None
