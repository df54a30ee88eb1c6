"""The index of what a model was trained on (`trace.safetensors` beside its weights), and the training
examples nearest to a result: of texts and tunes by the longest verbatim run and by common shingles,
of pictures, sounds and clips by their layouts."""

import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from daedal.errors import DaedalError
from daedal.files import write_whole
from daedal.trust.memorised.examples import Example, read_file
from daedal.trust.memorised.layout import NEAR, SIZE, apart
from daedal.trust.memorised.overlap import Run, Texts, words_of

NAME = "trace.safetensors"
FORMAT = "daedal trace 1"
WORDS = ("text", "tune")


@dataclass(frozen=True)
class Near:
    """A training example near to a result. Of a text or tune: `words` is its longest run of words
    (of notes, in a tune) that stand in the result, `quoted` those of the result, `share` the
    estimated share of common shingles. Of other media `apart` is the distance, of 255."""

    label: dict[str, str]
    words: int = 0
    quoted: str = ""
    share: float | None = None
    apart: float | None = None
    like: bool = False  # nearer than unlike contents come

    def sentence(self, unit: str) -> str:
        known = [self.label[key] for key in ("name", "source") if key in self.label]
        licence = self.label.get("licence", "licence not stated")
        what = f"{self.label['place']} ({'; '.join([*known, licence])})"
        if self.apart is not None:
            return f"{self.apart:5.1f} of 255 apart{', alike' if self.like else ''}: {what}"
        if self.words:
            quoted = f": {shortened(self.quoted)!r}" if unit == "words" else ""
            return f"{self.words} {unit} verbatim from {what}{quoted}"
        return f"no run of nine {unit}; {self.share:.0%} of its phrases in common with {what}"


def shortened(text: str, most: int = 160) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= most else f"{plain[: most // 2]} ... {plain[-most // 2 :]}"


@dataclass(frozen=True)
class Index:
    """Arrays by name, `text.hashes` or `picture.layouts`, and the labels of each kind."""

    arrays: dict[str, np.ndarray]
    labels: dict[str, list[dict[str, str]]]

    @classmethod
    def build(cls, examples: Iterable[Example]) -> "Index":
        contents: dict[str, list[Any]] = {}
        labels: dict[str, list[dict[str, str]]] = {}
        for example in examples:
            contents.setdefault(example.kind, []).append(example.content)
            labels.setdefault(example.kind, []).append(dict(example.label))
        if not labels:
            raise DaedalError("the data hold no text, tune, picture, sound or clip to index.")
        arrays: dict[str, np.ndarray] = {}
        for kind, found in contents.items():
            if kind in WORDS:
                arrays |= {f"{kind}.{name}": a for name, a in vars(Texts.of(found)).items()}
            else:
                arrays[f"{kind}.layouts"] = np.stack(found)
        return cls(arrays, labels)

    def save(self, file: Path) -> None:
        packed = np.frombuffer(zlib.compress(json.dumps(self.labels).encode()), np.uint8)
        tensors = {"labels": packed, **self.arrays}
        write_whole(file, safetensors.numpy.save(tensors, {"format": FORMAT}))

    @classmethod
    def load(cls, file: Path) -> "Index":
        if not file.is_file():
            raise DaedalError(
                f"there is no index {file}; make one with `daedal trace --build DATA -o {file}`."
            )
        try:
            with safetensors.safe_open(file, "numpy") as opened:
                metadata = opened.metadata() or {}
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (safetensors.SafetensorError, OSError) as error:
            raise DaedalError(f"{file} is no index of training data ({error}).") from None
        if metadata.get("format") != FORMAT:
            raise DaedalError(
                f"{file} has format {metadata.get('format')!r}, not {FORMAT!r}; build it again with `daedal trace --build`."
            )
        return cls(arrays, json.loads(zlib.decompress(arrays.pop("labels").tobytes())))

    @cached_property
    def texts(self) -> dict[str, Texts]:
        kinds = {name.partition(".")[0] for name in self.arrays} & set(WORDS)
        return {
            kind: Texts.read({
                name.partition(".")[2]: array
                for name, array in self.arrays.items()
                if name.startswith(f"{kind}.")
            })
            for kind in kinds
        }  # fmt: skip

    @property
    def sizes(self) -> dict[str, int]:
        return {kind: len(labels) for kind, labels in self.labels.items()}

    def nearest(self, kind: str, content: str | np.ndarray, most: int = 5) -> list[Near]:
        """The training examples nearest to a result of a kind, the nearest first."""
        if kind not in self.labels:
            raise DaedalError(
                f"the index holds {', '.join(f'{n:,} {k}s' for k, n in self.sizes.items())} and the result is a {kind}; "
                "give --index the one of the model that made it."
            )
        if isinstance(content, str):
            return self._nearest_texts(kind, content, most)
        distances = apart(content, self.arrays[f"{kind}.layouts"].reshape(-1, SIZE))
        order = np.argsort(distances, kind="stable")[:most]
        return [
            Near(self.labels[kind][i], apart=float(d), like=bool(d <= NEAR[kind]))
            for i, d in zip(order, distances[order], strict=True)
        ]

    def _nearest_texts(self, kind: str, text: str, most: int) -> list[Near]:
        words, index = words_of(text), self.texts[kind]
        longest: dict[int, Run] = {}
        for run in index.runs(words):
            longest.setdefault(run.document, run)
        found = [
            Near(
                self.labels[kind][document],
                run.words,
                " ".join(words[run.start : run.start + run.words]),
            )
            for document, run in list(longest.items())[:most]
        ]
        for document, share in index.alike(words, most):
            if document not in longest:
                found.append(Near(self.labels[kind][document], share=share))
        return found[:most]


def trace(file: Path, index: Index, most: int = 5) -> tuple[str, list[Near]]:
    """The kind of a result's file, and the training examples nearest to it."""
    kind, content = read_file(file)
    return kind, index.nearest(kind, content, most)


def as_dicts(found: list[Near]) -> list[dict[str, Any]]:
    return [asdict(near) for near in found]
