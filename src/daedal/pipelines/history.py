"""Every generation, in one SQLite file on this machine: what was asked, of which weights, with which seed, and what came.

`DAEDAL_HISTORY=0` turns the log off; `DAEDAL_HISTORY=/path/file.db` moves it.
"""

import json
import os
import sqlite3
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from daedal.errors import DaedalError

SCHEMA = """CREATE TABLE IF NOT EXISTS generations (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, medium TEXT NOT NULL, model TEXT NOT NULL, digest TEXT,
    prompt TEXT NOT NULL, settings TEXT NOT NULL, sample INTEGER NOT NULL, runtime TEXT NOT NULL,
    result TEXT NOT NULL, tokens INTEGER NOT NULL, finish_reason TEXT NOT NULL)"""


class Result(Protocol):
    """What a pipeline returns: a Text, a Picture."""

    recipe: dict[str, Any]
    finish_reason: str

    @property
    def logged(self) -> str: ...  # the text itself, or the digest of a picture's pixels
    @property
    def amount(self) -> int: ...  # tokens or steps


@dataclass(frozen=True)
class Entry:
    id: int
    at: float  # seconds since 1970
    medium: str
    model: str
    digest: str | None
    prompt: Any
    settings: dict[str, Any]
    sample: int  # which of the n
    runtime: dict[str, Any]
    result: str  # of a picture the digest of its pixels
    tokens: int  # or steps
    finish_reason: str


def location() -> Path | None:
    """The file, or None when the log is off."""
    setting = os.environ.get("DAEDAL_HISTORY", "")
    if setting == "0":
        return None
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    return Path(setting) if setting else data / "daedal" / "history.db"


def connect() -> sqlite3.Connection:
    path = location()
    if path is None:
        raise DaedalError("the history is off (DAEDAL_HISTORY=0); unset the variable to use it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=10)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(SCHEMA)
    return connection


def add(medium: str, result: Result) -> int | None:
    """Log one generation; its id, or None when the log is off."""
    if location() is None:
        return None
    r = result.recipe
    row = {
        "at": time.time(), "medium": medium, "model": r["model"], "digest": r["digest"], "prompt": json.dumps(r["prompt"]),
        "settings": json.dumps(r["settings"]), "sample": r["sample"], "runtime": json.dumps(r["runtime"]), "result": result.logged,
        "tokens": result.amount, "finish_reason": result.finish_reason,
    }  # fmt: skip
    with connect() as connection:
        return connection.execute(f"INSERT INTO generations ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", tuple(row.values())).lastrowid


def entries(limit: int = 20) -> list[Entry]:
    """The latest, newest first."""
    with connect() as connection:
        return [entry(row) for row in connection.execute("SELECT * FROM generations ORDER BY id DESC LIMIT ?", (limit,))]


def get(number: int) -> Entry:
    with connect() as connection:
        row = connection.execute("SELECT * FROM generations WHERE id = ?", (number,)).fetchone()
        if row is None:
            last = connection.execute("SELECT max(id) FROM generations").fetchone()[0]
            raise DaedalError(f"the history has no generation {number}; " + (f"its newest is {last}." if last else "it is empty."))
        return entry(row)


def entry(row: tuple[Any, ...]) -> Entry:
    values = dict(zip([field.name for field in fields(Entry)], row, strict=True))
    return Entry(**values | {key: json.loads(values[key]) for key in ("prompt", "settings", "runtime")})
