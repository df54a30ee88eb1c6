"""Documents from files, as a stream that is shuffled, repeatable and resumable at the cost of one
chunk.

A source is a file, a folder, or a Hub dataset (`hub:owner/name`), of parquet, jsonl, txt, each
optionally .zst. Its chunks (a parquet row group, or a file, or `tales:COUNT:SEED` generated ones)
are visited in an order fixed by (seed, epoch); inside a chunk documents are shuffled in windows.
Several sources are interleaved so that each has given its share of characters at every moment. The
whole position is a small dict of integers."""

import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from daedal.data.contents import DataPath, root
from daedal.errors import DaedalError

WINDOW = 16384  # documents shuffled together; a file in sorted order should not become a curriculum
SUFFIXES = (".parquet", ".jsonl", ".json", ".txt", ".md")
TABLES = (".parquet", ".jsonl", ".json")
ABOUT = {  # names of files about data
    "readme", "license", "licence", "notice", "changelog", "citation", "contributing", "requirements",
    "dataset_info", "dataset_infos", "dataset_dict", "state",
}  # fmt: skip
MADE = ("tales:", "programs:")  # generated texts: COUNT, and a seed
END = "<|endoftext|>"  # alone on a line, it separates documents of a txt file


class Source(BaseModel):
    """Where text comes from: `where` keeps rows whose column is one of the values; `repeat` is
    passes a pass of the mixture; `limit` stops after so many documents."""

    model_config = ConfigDict(extra="forbid")
    path: DataPath
    column: str = "text"
    where: dict[str, Any] = {}
    repeat: float = 1.0
    limit: int | None = None


class Chunk(NamedTuple):
    path: Path
    group: int | None  # parquet row group


def files(source: Source) -> list[Path]:
    """The data files of a source, sorted."""
    if source.path.startswith(MADE):
        return [Path(source.path)]
    place = root(source.path)
    found = [place] if place.is_file() else data_files(place)
    if not found:
        raise DaedalError(
            f"{source.path} holds no data: give a file or folder of {', '.join(SUFFIXES)} (each optionally .zst)."
        )
    return found


def data_files(folder: Path) -> list[Path]:
    """The files of a folder that hold data, sorted: cards, licences, the files of data set
    libraries, hidden ones, and markdown beside tables are passed over."""
    inside = [(path, path.relative_to(folder)) for path in sorted(folder.rglob("*"))]
    found = [
        path for path, place in inside
        if kind(path) in SUFFIXES and path.name.split(".")[0].lower() not in ABOUT and not any(part.startswith(".") for part in place.parts)
    ]  # fmt: skip
    tables = any(kind(path) in TABLES for path in found)
    return [path for path in found if not (tables and kind(path) == ".md")]


def kind(path: Path) -> str:
    """The suffix under an optional .zst; `tales:5000` for generated text has none."""
    return path.with_suffix("").suffix if path.suffix == ".zst" else path.suffix


def chunks(source: Source) -> list[Chunk]:
    out = []
    for path in files(source):
        if kind(path) == ".parquet":
            out += [Chunk(path, group) for group in range(parquet(path).num_row_groups)]
        else:
            out.append(Chunk(path, None))
    return out


def parquet(path: Path):
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except Exception as error:
        raise DaedalError(
            f"{path} is not a readable parquet file ({error}); write or download it again."
        ) from None


def read(chunk: Chunk, source: Source) -> Iterator[str]:
    """Documents of a chunk in file order, filtered, empty ones left out."""
    if source.path.startswith(MADE):
        from daedal.worlds import programs, tales

        kind_, *given = source.path.split(":")
        return {"tales": tales, "programs": programs}[kind_](*map(int, given))
    reader = {".parquet": read_parquet, ".jsonl": read_jsonl, ".json": read_jsonl}.get(
        kind(chunk.path), read_text
    )
    return (text for text in reader(chunk, source) if text and text.strip())


def read_parquet(chunk: Chunk, source: Source) -> Iterator[str]:
    file = parquet(chunk.path)
    names = file.schema_arrow.names
    for column in [source.column, *source.where]:
        if column not in names:
            raise DaedalError(f"{chunk.path} has no column {column!r}; it has {', '.join(names)}.")
    table = file.read_row_group(
        chunk.group, columns=list(dict.fromkeys([source.column, *source.where]))
    ).to_pydict()
    for i, text in enumerate(table[source.column]):
        if all(accepts(table[column][i], wanted) for column, wanted in source.where.items()):
            yield text


def read_jsonl(chunk: Chunk, source: Source) -> Iterator[str]:
    for number, line in enumerate(text_lines(chunk.path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text = row[source.column]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DaedalError(
                f"{chunk.path} line {number} has no JSON field {source.column!r} ({type(error).__name__}); mend the line or set column=."
            ) from None
        if all(accepts(row.get(column), wanted) for column, wanted in source.where.items()):
            yield text


def read_text(chunk: Chunk, source: Source) -> Iterator[str]:
    """A document ends at a line that is <|endoftext|>, or at a blank line once it is 20,000
    characters long."""
    part: list[str] = []
    size = 0
    for line in text_lines(chunk.path):
        if line.strip() == END or (size > 20_000 and not line.strip()):
            yield "".join(part)
            part, size = [], 0
        else:
            part.append(line)
            size += len(line)
    yield "".join(part)


def text_lines(path: Path) -> Iterator[str]:
    try:
        with open(path, "rb") as raw:
            if path.suffix == ".zst":
                import zstandard

                raw = zstandard.ZstdDecompressor().stream_reader(raw)  # type: ignore[assignment]
            for line in io.TextIOWrapper(raw, encoding="utf-8", newline="\n"):
                if "\0" in line:
                    raise DaedalError(
                        f"{path} holds NUL bytes, so it is not text; give parquet, jsonl or txt."
                    )
                yield line
    except (UnicodeDecodeError, OSError) as error:
        raise DaedalError(
            f"{path} is not UTF-8 text ({error}); convert it or give parquet, jsonl or txt."
        ) from None


def accepts(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, list | tuple) else value == wanted


def documents(sources: list[Source]) -> Iterator[str]:
    """Every document once, in file order: for tokenizers and validation."""
    for source in sources:
        yield from islice(
            (text for chunk in chunks(source) for text in read(chunk, source)), source.limit
        )


def limited(source: Source) -> tuple[list[Chunk], list[int | None]]:
    """The chunks of a source, and of each how many documents are read: the first `limit` in file
    order."""
    every = chunks(source)
    if source.limit is None:
        return every, [None] * len(every)
    kept, most, left = list[Chunk](), list[int | None](), source.limit
    for chunk in every:
        count = sum(1 for _ in islice(read(chunk, source), left))
        if count:
            kept.append(chunk)
            most.append(count)
        left -= count
        if not left:
            break
    return kept, most


class Stream:
    """One source without end: epochs of shuffled chunks of shuffled windows. `state` is (epoch,
    chunk, window, document)."""

    def __init__(self, source: Source, seed: int) -> None:
        self.source, self.seed = source, seed
        self.chunks, self.most = limited(source)
        self.state = {"epoch": 0, "chunk": 0, "window": 0, "document": 0}
        self.iterator = self.run()

    def order(self, count: int, *where: int) -> np.ndarray:
        return np.random.default_rng([self.seed, *where]).permutation(count)

    def run(self) -> Iterator[str]:
        s = self.state
        while True:
            order = self.order(len(self.chunks), s["epoch"])
            found = s["chunk"] > 0 or s["window"] > 0 or s["document"] > 0
            while s["chunk"] < len(order):
                chunk = int(order[s["chunk"]])
                texts = islice(
                    read(self.chunks[chunk], self.source), s["window"] * WINDOW, self.most[chunk]
                )
                while window := list(islice(texts, WINDOW)):
                    picks = self.order(len(window), s["epoch"], chunk, s["window"])
                    while s["document"] < len(window):
                        s["document"] += 1
                        found = True
                        yield window[picks[s["document"] - 1]]
                    s["window"], s["document"] = s["window"] + 1, 0
                s["chunk"], s["window"] = s["chunk"] + 1, 0
            if not found:
                raise DaedalError(
                    f"{self.source.path} gave no document: it is empty, or `where` {self.source.where} matches no row."
                )
            s["epoch"], s["chunk"] = s["epoch"] + 1, 0

    def size(self) -> float:
        """Characters of one pass."""
        return float(sum(len(text) for text in documents([self.source])))


class Mixture:
    """Sources interleaved by characters: the next document comes from the source that is furthest
    behind its share."""

    def __init__(
        self, sources: list[Source], seed: int = 0, state: dict[str, Any] | None = None
    ) -> None:
        self.streams = [Stream(source, seed + i) for i, source in enumerate(sources)]
        self.shares = (state or {}).get("shares") or [
            stream.size() * stream.source.repeat for stream in self.streams
        ]
        self.taken = list((state or {}).get("taken") or [0] * len(sources))
        if state:
            for stream, position in zip(self.streams, state["positions"], strict=True):
                stream.state.update(position)
        for stream, share in zip(self.streams, self.shares, strict=True):
            if share == 0:
                next(stream.iterator)  # raises the sentence that says why it is empty

    def __iter__(self) -> Iterator[str]:
        while True:
            behind = min(range(len(self.streams)), key=lambda i: self.taken[i] / self.shares[i])
            text = next(self.streams[behind].iterator)
            self.taken[behind] += len(text)
            yield text

    def state(self) -> dict[str, Any]:
        return {
            "positions": [dict(s.state) for s in self.streams],
            "taken": list(self.taken),
            "shares": list(self.shares),
        }
