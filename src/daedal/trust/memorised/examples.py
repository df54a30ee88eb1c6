"""Training examples as they lie in files: rows of parquet and jsonl, texts, tunes, pictures, sounds,
clips; each with where it stands, its source and its licence."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from daedal.data import documents
from daedal.data.contents import root
from daedal.data.rows import messages_of, told
from daedal.errors import DaedalError
from daedal.media import abc, audio, images, video
from daedal.trust.memorised import layout

TEXT = ("title", "text", "prompt", "question", "chosen", "completion", "answer", "messages", "conversations", "turns")  # fmt: skip
NAME = ("title", "name", "caption")
SUFFIXES = (".abc", ".jpg", ".jpeg", *video.SUFFIXES, *audio.FORMATS)


@dataclass(frozen=True)
class Example:
    """One example: `content` is its text, or its layout. `label` has place, and where the data say
    so name, source and licence."""

    kind: str  # text, tune, picture, sound or clip
    content: str | np.ndarray
    label: Mapping[str, str]


def examples(path: str, licence: str | None = None) -> Iterator[Example]:
    """Those of a file, folder or data set (hub:owner/name); `licence` is of those that name none."""
    extra = {"licence": licence} if licence else {}
    place = root(path)
    media = [place] if place.is_file() else sorted(place.rglob("*")) if place.is_dir() else []
    media = [file for file in media if file.suffix.lower() in SUFFIXES]
    for file in media:
        kind, content = read_file(file)
        yield Example(kind, content, {**extra, "place": file.name})
    if place in media or (media and not documents.data_files(place)):
        return
    for chunk in documents.chunks(documents.Source(path=path)):
        yield from of_chunk(chunk, extra)


def read_file(file: Path) -> tuple[str, str | np.ndarray]:
    """The kind and content of a file of its own. A text is UTF-8."""
    if file.suffix.lower() == ".abc":
        return "tune", melody(file.read_text("utf-8"))
    if found := layout.of_file(file):
        return found
    try:
        return "text", file.read_text("utf-8")
    except UnicodeDecodeError:
        raise DaedalError(
            f"{file} is neither UTF-8 text nor a picture, sound, clip or .abc tune; convert it first."
        ) from None


def of_chunk(chunk: documents.Chunk, extra: Mapping[str, str]) -> Iterator[Example]:
    suffix = documents.kind(chunk.path)
    if suffix not in documents.TABLES:
        for i, text in enumerate(documents.read_text(chunk, documents.Source(path="."))):
            yield Example("text", text, {**extra, "place": f"{chunk.path.name}:{i + 1}"})
        return
    group = f"{chunk.group}." if chunk.group else ""
    for i, row in enumerate(table_rows(chunk)):
        if found := of_row(row):
            kind, content = found
            place = f"{chunk.path.name}:{group}{i + 1}"
            yield Example(kind, content, {**extra, **labels(row), "place": place})


def table_rows(chunk: documents.Chunk) -> Iterator[dict[str, Any]]:
    if documents.kind(chunk.path) == ".parquet":
        yield from documents.parquet(chunk.path).read_row_group(chunk.group).to_pylist()
        return
    for line in documents.text_lines(chunk.path):
        if line.strip() and isinstance(row := json.loads(line), dict):
            yield row


def of_row(row: Mapping[str, Any]) -> tuple[str, str | np.ndarray] | None:
    """A row's kind and content by its columns; None where it has none that is known."""
    if data := _bytes(row.get("image")):
        return "picture", layout.of_picture(images.open_image(data))
    if data := _bytes(row.get("audio")):
        samples, _ = audio.open_audio(data, layout.RATE, mono=True)
        return "sound", layout.of_sound(samples[0])
    if isinstance(row.get("abc"), str):
        return "tune", melody(row["abc"])
    said = [row[key] for key in TEXT if isinstance(row.get(key), str)]
    if turns := told(row):
        said += [str(turn["content"]) for turn in messages_of(turns)]
    return ("text", "\n".join(said)) if said else None


def _bytes(value: Any) -> bytes | None:
    """Encoded bytes, or those in the struct {bytes, path} of the `datasets` library."""
    found = value.get("bytes") if isinstance(value, dict) else value
    return found if isinstance(found, bytes) else None


def labels(row: Mapping[str, Any]) -> dict[str, str]:
    name = next((str(row[key]) for key in NAME if row.get(key)), "")
    author = f", {row['author']}" if name and row.get("author") else ""
    source = row.get("source") or row.get("collection") or row.get("origin") or ""
    licence = row.get("licence") or row.get("license") or ""
    found = {"name": (name + author)[:120], "source": str(source), "licence": str(licence)}
    return {key: value for key, value in found.items() if value}


def melody(text: str) -> str:
    """A tune's words: of each note the step from the one before in semitones, and its length; the
    letters as they stand where the ABC does not read, as that of real collections may not."""
    try:
        notes = [(note.pitch, note.ticks) for note in abc.read(text).played()]
    except DaedalError:
        return text
    sounding = [(pitch, ticks) for pitch, ticks in notes if pitch is not None]
    return " ".join(
        f"{'d' if here < before else 'u'}{abs(here - before)}x{ticks}"
        for (before, _), (here, ticks) in pairwise(sounding)
    )
