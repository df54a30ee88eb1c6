"""Answers from documents, with evidence: numbered sources, every sentence held against what it
cites, and no answer where there is none.

    answer = answered("When is the harvest?", index.search("When is the harvest?"), pipeline)
    answer.text, answer.sources, [s.supported for s in answer.sentences]

A sentence is supported by the passages it cites when most of its words of content stand there, and
every number and name of it. That finds what was made up; it does not judge what is meant."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from daedal.assist.documents.index import STOP, Hit
from daedal.assist.documents.passages import sentences

NONE = "not in your documents"
NEAR = 0.3  # cosine from which a passage without a word of the question is worth asking about
SHARE = 0.6  # of a sentence's words of content that must stand in what it cites
CITED = re.compile(r"\s*\[(\d+(?:\s*,\s*\d+)*)\]")
STRICT = re.compile(r"\d[\d.,:]*\d|\d|(?<!^)(?<![.!?] )\b[A-Z][a-z]+\b")
ASKING = (
    "Answer the question from the numbered sources, and from nothing else, in one to three short sentences. After each sentence "
    'name its source in brackets, like [2]. If the sources do not hold the answer, write only "{none}".'
)


@dataclass(frozen=True)
class Sentence:
    """What is said, the sources it names, and whether they say so."""

    text: str
    cites: tuple[int, ...]
    supported: bool


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
        kept = [s for s in self.sentences if s.supported]
        if not self.found:
            return f"This is {NONE}."
        return " ".join(f"{s.text} {''.join(f'[{n}]' for n in s.cites)}" for s in kept)

    def as_dict(self) -> dict[str, Any]:
        sources = [
            {"number": i, "file": hit.file, "place": hit.passage.place, "heading": hit.passage.heading, "text": hit.passage.text}
            for i, hit in enumerate(self.sources, 1)
        ]  # fmt: skip
        said = [asdict(sentence) for sentence in self.sentences]
        return {"question": self.question, "found": self.found, "text": self.text, "sentences": said, "sources": sources}  # fmt: skip


def answered(question: str, hits: Sequence[Hit], pipeline: Any, **settings: Any) -> Answer:
    """The answer of a chat model to a question, from passages."""
    if not any(shares_a_word(question, hit) or (hit.similarity or 0) > NEAR for hit in hits):
        return Answer(question, False, (), tuple(hits))
    asked = {"max_tokens": 160, "temperature": 0.0, "seed": 0, **settings}
    said = pipeline.start(messages(question, hits), **asked).result().text.strip()
    if NONE in said.lower():
        return Answer(question, False, (), tuple(hits))
    checked = tuple(judged(said, hits))
    return Answer(question, any(s.supported for s in checked), checked, tuple(hits))


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


def judged(said: str, hits: Sequence[Hit]) -> list[Sentence]:
    """The sentences of an answer. One whose source does not say so, or without one, gets the source
    that supports it best, if any does."""
    found = []
    for sentence in sentences(moved(said)):
        numbers = [int(n) for group in CITED.findall(sentence) for n in re.split(r"\s*,\s*", group)]
        text = CITED.sub("", sentence).strip()
        cites = tuple(dict.fromkeys(n for n in numbers if 1 <= n <= len(hits)))
        if not text:
            continue
        own = "\n".join(hits[n - 1].passage.indexed for n in cites)
        if not cites or not supports(text, own):  # another source may say so
            says = [n for n, hit in enumerate(hits, 1) if supports(text, hit.passage.indexed)]
            best = max(says, key=lambda n: overlap(text, hits[n - 1].passage.indexed), default=0)
            found.append(Sentence(text, (best,) if best else cites, bool(best)))
        else:
            found.append(Sentence(text, cites, True))
    return found


def moved(said: str) -> str:
    """Sources that stand behind a full stop belong to the sentence before it."""
    return re.sub(r"([.!?])((?:\s*\[\d+(?:\s*,\s*\d+)*\])+)", r"\2\1", said)


def supports(sentence: str, text: str) -> bool:
    """Whether a text says what a sentence says, as far as words tell."""
    strict = [word.strip(".,:") for word in STRICT.findall(sentence)]
    return overlap(sentence, text) >= SHARE and all(stands_in(word, text) for word in strict)


def stands_in(word: str, text: str) -> bool:
    """Whether a number or name stands in a text whole: 3 is not in 13 or 3.5."""
    whole = rf"(?<![\w])(?<!\d[.,]){re.escape(word)}(?![\w]|[.,]\d)"
    return re.search(whole, text, re.IGNORECASE) is not None


def overlap(sentence: str, text: str) -> float:
    """The share of a sentence's words of content that stand in a text, by their stems."""
    wanted, there = content(sentence), content(text)
    return len(wanted & there) / len(wanted) if wanted else 0.0


def content(text: str) -> set[str]:
    return {stem(word) for word in re.findall(r"\w+", text.lower()) if word not in STOP}


def stem(word: str) -> str:
    """A word without its commonest endings."""
    for end in ("ies", "ing", "edly", "ed", "es", "s", "ly"):
        if word.endswith(end) and len(word) - len(end) >= 3:
            return word[: -len(end)]
    return word


def shares_a_word(question: str, hit: Hit) -> bool:
    return bool(content(question) & content(hit.passage.indexed))
