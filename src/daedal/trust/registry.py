"""What this machine made: a table beside the history (the same file, off with it) of the digest and
the fingerprint of every file, so that a file is known after its metadata went.

A fingerprint that differs in at most NEAR bits of 64 is said to be like. How often that is wrong was
measured on pairs of unlike contents (ALARMS; docs/how-to/provenance.md has the command): a registry of n
entries is wrong n times as often as a pair."""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daedal.pipelines import history
from daedal.pipelines.medium import Result
from daedal.trust.fingerprint import differing, fingerprint

SCHEMA = """CREATE TABLE IF NOT EXISTS made (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, medium TEXT NOT NULL, model TEXT NOT NULL, recipe TEXT NOT NULL,
    generation INTEGER, sha256 TEXT NOT NULL, kind TEXT NOT NULL, words BLOB NOT NULL)"""
COLUMNS = "at, medium, model, recipe, generation"
NEAR = {
    "picture": 6.0,
    "clip": 6.0,
    "sound": 14.0,
}  # differing bits of 64, in the mean of the words
# share of unlike pairs that come as near, of the contents that come nearest: of pictures plain drawn
# shapes (365 of 1,124,250; of such as photographs none of 499,500), of sounds none of 79,800, which is
# below this with 95 % confidence. Clips are not measured; their three frames agree more seldom than one
ALARMS = {"picture": 3.2e-4, "clip": 3.2e-4, "sound": 3.8e-5}


@dataclass(frozen=True)
class Made:
    """Something that this machine made, and how many bits of 64 a file differs from it: 0 bits and
    `same` where the file is that one byte for byte."""

    at: float  # seconds since 1970
    medium: str
    model: str
    recipe: str  # sha256 of the recipe
    generation: int | None  # its number in the history
    same: bool
    bits: float
    chance: float  # of an unlike file to come as near as NEAR to any of the registry, at most


def made(row: tuple[Any, ...], same: bool, bits: float, chance: float) -> Made:
    at, medium, model, recipe, generation = row  # COLUMNS
    return Made(at, medium, model, recipe, generation, same, bits, chance)


def record(file: Path, result: Result, generation: int | None) -> None:
    """Remember a file that was made, where the history is on."""
    if history.location() is None:
        return
    mark = fingerprint(file)
    recipe = hashlib.sha256(json.dumps(result.recipe, sort_keys=True).encode()).hexdigest()
    row = (time.time(), result.medium.name, result.recipe["model"], recipe, generation)
    with history.connected() as connection:
        connection.execute(SCHEMA)
        connection.execute(
            f"INSERT INTO made ({COLUMNS}, sha256, kind, words) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, sha256(file), mark.kind, mark.words.tobytes()),
        )


def find(file: Path, most: int = 5) -> list[Made]:
    """What a file is, or is like: the same bytes first, then the nearest."""
    if history.location() is None:
        return []
    mark, digest = fingerprint(file), sha256(file)
    with history.connected() as connection:
        connection.execute(SCHEMA)
        same = connection.execute(
            f"SELECT {COLUMNS} FROM made WHERE sha256 = ?", (digest,)
        ).fetchall()
        rows = connection.execute(
            f"SELECT {COLUMNS}, words FROM made WHERE kind = ? AND sha256 != ? AND length(words) = ?",
            (mark.kind, digest, mark.words.nbytes),
        ).fetchall()
    found = [made(row, True, 0.0, 0.0) for row in same]
    if rows and len(mark.words):
        words = np.frombuffer(b"".join(row[-1] for row in rows), np.uint64).reshape(len(rows), -1)
        bits = differing(mark.words, words)
        near = [i for i in np.argsort(bits, kind="stable") if bits[i] <= NEAR[mark.kind]]
        chance = min(1.0, ALARMS[mark.kind] * len(rows))
        found += [made(rows[i][:-1], False, float(bits[i]), chance) for i in near]
    return found[:most]


def size() -> int:
    """How many files the registry knows."""
    if history.location() is None:
        return 0
    with history.connected() as connection:
        connection.execute(SCHEMA)
        return connection.execute("SELECT count(*) FROM made").fetchone()[0]


def sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
