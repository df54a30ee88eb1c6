"""An index of a folder's passages: words in SQLite's full-text search (BM25), meanings as vectors
beside it, both asked, joined by rank, and the best of them ordered by a closer look (`rerank`). Above 200,000 vectors the candidates by meaning are chosen by one bit a number.

    index = Index.open(Path("notes"))
    index.update(embedder)                         # new and changed files only
    for hit in index.search("when is the harvest?", embedder): hit.passage, hit.file, hit.score

It lies in `.daedal` within the folder. Vectors are float32 in a file that is mapped, not read; the
model that made them is kept by its digest, and vectors of another are never mixed with them."""

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daedal.assist.documents.parts import READERS, parts_of
from daedal.assist.documents.passages import Passage, passages_of
from daedal.assist.documents.rerank import Candidate, scores
from daedal.assist.documents.words import STOP
from daedal.errors import DaedalError
from daedal.pipelines.digest import digest

PLACE = ".daedal"
DEEP = 50  # passages of each way that are joined
RANKS = 60  # of reciprocal rank fusion (Cormack et al. 2009)
BATCH = 256  # passages embedded at once
BLOCK = 65_536  # vectors multiplied at once
EXACT = 200_000  # vectors up to which all are multiplied; above, those with most signs in common
RESCORED = 8192  # of these
SCORED = 20_000  # passages that BM25 is worked out for, about
TABLES = """
CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, digest TEXT, error TEXT);
CREATE TABLE IF NOT EXISTS passages (id INTEGER PRIMARY KEY, path TEXT, heading TEXT, place TEXT, text TEXT, row INTEGER);
CREATE INDEX IF NOT EXISTS of_file ON passages (path);
CREATE INDEX IF NOT EXISTS of_row ON passages (row);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (heading, text, tokenize = 'porter unicode61');
"""


@dataclass(frozen=True)
class Hit:
    """A passage that was found, its file, and how: rank by words and by meaning, from 1."""

    passage: Passage
    file: str
    score: float
    by_words: int | None = None
    by_meaning: int | None = None
    similarity: float | None = None


@dataclass
class Updated:
    """What an update did."""

    files: int = 0
    passages: int = 0
    removed: int = 0
    errors: tuple[str, ...] = ()


class Index:
    """The passages of one folder."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.folder, self.place = folder, place
        self.database = sqlite3.connect(place / "index.db", isolation_level=None)
        self.database.executescript(TABLES)

    @classmethod
    def open(cls, folder: Path, make: bool = True) -> "Index":
        """The index of a folder; without `make` one that is not there is an error."""
        if not folder.is_dir():
            raise DaedalError(f"{folder} is no folder; give one with documents.")
        place = folder / PLACE
        if not make and not (place / "index.db").exists():
            raise DaedalError(f"{folder} has no index; make one with `daedal index {folder}`.")
        try:
            place.mkdir(exist_ok=True)
            return cls(folder, place)
        except (OSError, sqlite3.Error) as error:
            raise DaedalError(f"the index of {folder} cannot be opened ({error}).") from None

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self.database.execute("SELECT count(*) FROM passages").fetchone()[0])

    @property
    def model(self) -> str | None:
        """The name of the embedder that made the vectors."""
        row = self.database.execute("SELECT value FROM facts WHERE name = 'embedder'").fetchone()
        return json.loads(row[0])["name"] if row else None

    # ---- making ----

    def update(
        self,
        embedder: Any = None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Updated:
        """Read what is new or changed, forget what is gone, and give every passage a vector where
        there is an embedder. Interrupted, it goes on from there."""
        if embedder is not None:
            self._expect(embedder, claim=True)
        done, paths = Updated(), list(self.documents())
        known = dict(self.database.execute("SELECT path, digest FROM files"))
        for gone in known.keys() - {self.name(path) for path in paths}:
            with self.whole():
                self._forget(gone)
            done.removed += 1
        errors = []
        for number, path in enumerate(paths):
            on_progress(number, len(paths))
            try:
                found = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as reason:  # what was known of it stays
                errors.append(f"{path} cannot be read ({reason.strerror}); mend its permissions.")
                continue
            if known.get(self.name(path)) == found:
                continue
            try:
                passages, error = passages_of(parts_of(path)), None
            except DaedalError as reason:
                passages, error = [], str(reason)
                errors.append(error)
            with self.whole():
                self._forget(self.name(path))
                self._add(self.name(path), passages)
                row = (self.name(path), found, error)
                self.database.execute("INSERT INTO files VALUES (?, ?, ?)", row)
            done.files, done.passages = done.files + 1, done.passages + len(passages)
        if embedder is not None:
            self._embed(embedder, on_progress)
        done.errors = tuple(errors)
        return done

    def documents(self) -> Iterator[Path]:
        """The files of the folder that can be read, in order, hidden ones left out."""
        for path in sorted(self.folder.rglob("*")):
            parts = path.relative_to(self.folder).parts
            if (
                path.is_file()
                and path.suffix.lower() in READERS
                and not any(p.startswith(".") for p in parts)
            ):
                yield path

    def name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All of a change, or nothing."""
        self.database.execute("BEGIN")
        try:
            yield
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")

    def _forget(self, path: str) -> None:
        for (number,) in self.database.execute(
            "SELECT id FROM passages WHERE path = ?", (path,)
        ).fetchall():
            self.database.execute("DELETE FROM words WHERE rowid = ?", (number,))
        self.database.execute("DELETE FROM passages WHERE path = ?", (path,))
        self.database.execute("DELETE FROM files WHERE path = ?", (path,))

    def _add(self, path: str, passages: Sequence[Passage]) -> None:
        for p in passages:
            row = (path, p.heading, p.place, p.text)
            made = self.database.execute(
                "INSERT INTO passages (path, heading, place, text) VALUES (?, ?, ?, ?)", row
            )
            words = (made.lastrowid, p.heading, p.text)
            self.database.execute(
                "INSERT INTO words (rowid, heading, text) VALUES (?, ?, ?)", words
            )

    # ---- vectors ----

    @property
    def vectors_file(self) -> Path:
        return self.place / "vectors.f32"

    @property
    def signs_file(self) -> Path:
        return self.place / "signs.u64"

    def _expect(self, embedder: Any, claim: bool = False) -> None:
        """The embedder of this index; another one is an error."""
        own = {"name": embedder.name, "digest": digest(embedder.folder)}
        row = self.database.execute("SELECT value FROM facts WHERE name = 'embedder'").fetchone()
        if row and json.loads(row[0])["digest"] != own["digest"]:
            there = json.loads(row[0])["name"]
            raise DaedalError(
                f"the vectors of {self.folder} are of {there}, and {embedder.name} is another space; use that one, or delete {self.place}."
            )
        if not row and claim:
            self.database.execute("INSERT INTO facts VALUES ('embedder', ?)", (json.dumps(own),))

    def _embed(self, embedder: Any, on_progress: Callable[[int, int], None]) -> None:
        """Vectors of the passages that have none, at the end of the file. One that a crash left
        without its row is written over."""
        query = "SELECT id, heading, text, place FROM passages WHERE row IS NULL ORDER BY id"
        missing = self.database.execute(query).fetchall()
        for start in range(0, len(missing), BATCH):
            on_progress(start, len(missing))
            batch = missing[start : start + BATCH]
            texts = [Passage(text, heading, place).indexed for _, heading, text, place in batch]
            vectors = np.ascontiguousarray(embedder.embed(texts), np.float32)
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            at = self._rows()
            if self.signs_file.exists():  # those of rows that are written over are made again
                os.truncate(self.signs_file, min(self.signs_file.stat().st_size, at * code_size(vectors.shape[1])))  # fmt: skip
            with self.vectors_file.open("r+b" if at else "wb") as file:
                file.seek(at * vectors.shape[1] * 4)
                file.write(vectors.tobytes())
            with self.whole():
                self.database.executemany(
                    "UPDATE passages SET row = ? WHERE id = ?",
                    [(at + i, number) for i, (number, *_) in enumerate(batch)],
                )

    def _rows(self) -> int:
        top = self.database.execute("SELECT max(row) FROM passages").fetchone()[0]
        return 0 if top is None else top + 1

    # ---- finding ----

    def search(self, question: str, embedder: Any = None, count: int = 8) -> list[Hit]:
        """The passages that answer a question likeliest, the best first; `score` is the reranker's
        log-odds."""
        found = self.joined(question, embedder)
        best = self.ordered(question, found, embedder)[:count]
        return [self.hit(candidate, score) for candidate, score in best]

    def ordered(
        self, question: str, found: Sequence[Candidate], embedder: Any = None
    ) -> list[tuple[Candidate, float]]:
        """Candidates by the reranker, the best first, each with its score."""
        rated = zip(found, scores(question, found, embedder).tolist(), strict=True)
        return sorted(rated, key=lambda pair: -pair[1])

    def joined(self, question: str, embedder: Any = None, count: int = DEEP) -> list[Candidate]:
        """Candidates by words, and with an embedder by meaning, joined by 1 / (60 + rank)."""
        words = self.by_words(question)
        meant: list[tuple[int, float]] = []
        if embedder is not None and self.vectors_file.exists():
            self._expect(embedder)
            meant = self.by_meaning(embedder.embed([question])[0])
        fused: dict[int, float] = {}
        for ranked in (words, meant):
            for rank, (number, _) in enumerate(ranked, 1):
                fused[number] = fused.get(number, 0.0) + 1 / (RANKS + rank)
        said = {number: (score, rank) for rank, (number, score) in enumerate(words, 1)}
        like = {number: (cosine, rank) for rank, (number, cosine) in enumerate(meant, 1)}
        best = sorted(fused, key=lambda number: -fused[number])[:count]
        none = (None, None)
        return [
            Candidate(n, self.passage(n)[0].indexed, *said.get(n, none), *like.get(n, none))
            for n in best
        ]

    def hit(self, found: Candidate, score: float) -> Hit:
        place = self.passage(found.number)
        return Hit(*place, score, found.by_words, found.by_meaning, found.cosine)

    def by_words(self, question: str, count: int = DEEP) -> list[tuple[int, float]]:
        """(passage, BM25) of any of the question's words, headings counting double."""
        found = [w for w in re.findall(r"\w+", question.lower()) if w not in STOP]
        if not found:
            return []
        query = " OR ".join(f'"{word}"' for word in self._rarest(list(dict.fromkeys(found))))
        return self.database.execute(
            "SELECT rowid, -bm25(words, 2.0, 1.0) AS score FROM words WHERE words MATCH ?"
            " ORDER BY score DESC LIMIT ?",
            (query, count),
        ).fetchall()

    def _rarest(self, words: list[str]) -> list[str]:
        """In a large index those words that are in at most SCORED passages together: the commonest
        cost most to score and tell least."""
        if len(words) < 2 or len(self) <= SCORED:
            return words
        count = "SELECT count(*) FROM words WHERE words MATCH ?"
        counts = {w: self.database.execute(count, (f'"{w}"',)).fetchone()[0] for w in words}
        rising = sorted(words, key=counts.__getitem__)
        sums = np.cumsum([counts[word] for word in rising])
        return rising[: max(1, int((sums <= SCORED).sum()))]

    def by_meaning(self, vector: np.ndarray, count: int = DEEP) -> list[tuple[int, float]]:
        """(passage, cosine) of the nearest vectors: all of them looked at, or in a large index
        those with most signs in common."""
        if not (rows := self._rows()):
            return []
        shape = (rows, len(vector))  # what a crash left behind them is not looked at
        vectors = np.memmap(self.vectors_file, np.float32, "r", shape=shape)
        unit = (vector / (np.linalg.norm(vector) or 1.0)).astype(np.float32)
        found: list[tuple[int, float]] = []
        if rows > EXACT:
            chosen = self._likeliest(unit, rows)
            scores = vectors[chosen] @ unit
        else:
            chosen = np.arange(rows)
            scores = np.concatenate([vectors[i : i + BLOCK] @ unit for i in range(0, rows, BLOCK)])
        for places in falling(scores):  # rows of passages that are gone have no owner
            some = chosen[places].tolist()
            marks = ",".join("?" * len(some))
            query = f"SELECT row, id FROM passages WHERE row IN ({marks})"
            owner = dict(self.database.execute(query, some))
            pairs = zip(some, scores[places].tolist(), strict=True)
            found += [(owner[row], score) for row, score in pairs if row in owner]
            if len(found) >= count:
                break
        return found[:count]

    def _likeliest(self, unit: np.ndarray, rows: int) -> np.ndarray:
        """Rows whose vectors have most signs in common with one, in order of rows (Charikar 2002).
        The signs of vectors that are new are made first."""
        asked, size = signs(unit[None])[0], code_size(len(unit))
        known = self.signs_file.stat().st_size // size if self.signs_file.exists() else 0
        if known < rows:
            vectors = np.memmap(self.vectors_file, np.float32, "r", shape=(rows, len(unit)))
            with self.signs_file.open("r+b" if known else "wb") as file:
                file.seek(known * size)
                for start in range(known, rows, BLOCK):
                    file.write(signs(vectors[start : start + BLOCK]).tobytes())
        codes = np.memmap(self.signs_file, np.uint64, "r", shape=(rows, len(asked)))
        apart = np.zeros(rows, np.uint16)
        for column, part in zip(codes.T, asked, strict=True):
            apart += np.bitwise_count(column ^ part)
        return np.sort(np.argpartition(apart, RESCORED)[:RESCORED])

    def passage(self, number: int) -> tuple[Passage, str]:
        row = self.database.execute(
            "SELECT text, heading, place, path FROM passages WHERE id = ?", (number,)
        ).fetchone()
        return Passage(*row[:3]), row[3]


def code_size(width: int) -> int:
    """Bytes of the signs of a vector."""
    return -(-width // 64) * 8


def signs(vectors: np.ndarray) -> np.ndarray:
    """(N, D) -> (N, D / 64) which numbers are above 0, a bit each."""
    bits = np.packbits(vectors > 0, axis=1)
    return np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64)


def falling(scores: np.ndarray) -> Iterator[list[int]]:
    """The places of scores from the highest on, some at once: the first are found without ordering
    all."""
    start, size = 0, BATCH
    while start < len(scores):
        end = min(start + size, len(scores))
        top = np.argpartition(-scores, end - 1)[:end]
        yield top[np.argsort(-scores[top], kind="stable")][start:].tolist()
        start, size = end, min(size * 8, 16_384)  # more variables no statement takes
