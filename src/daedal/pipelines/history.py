"""Every generation, in one SQLite file on this machine: what was asked, of which weights, with
which seed, and what came.

`DAEDAL_HISTORY=0` turns the log off; `DAEDAL_HISTORY=/path/file.db` moves it."""

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from daedal.errors import DaedalError
from daedal.files import data_folder
from daedal.pipelines.medium import Result

SCHEMA = """CREATE TABLE IF NOT EXISTS generations (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, medium TEXT NOT NULL, model TEXT NOT NULL, digest TEXT,
    prompt TEXT NOT NULL, settings TEXT NOT NULL, sample INTEGER NOT NULL, runtime TEXT NOT NULL,
    result TEXT NOT NULL, tokens INTEGER NOT NULL, finish_reason TEXT NOT NULL,
    joules REAL)"""


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
    joules: float | None = None  # of what was made before they were kept


def location() -> Path | None:
    """The file, or None when the log is off."""
    setting = os.environ.get("DAEDAL_HISTORY", "")
    if setting == "0":
        return None
    return Path(setting) if setting else data_folder() / "history.db"


@contextmanager
def connected() -> Iterator[sqlite3.Connection]:
    """The log, for one transaction. What stands in its way is a DaedalError."""
    path = location()
    if path is None:
        raise DaedalError("the history is off (DAEDAL_HISTORY=0); unset the variable to use it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=10)
        try:
            with connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(SCHEMA)
                grown(connection)
                yield connection
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as error:
        raise DaedalError(
            f"the history {path} cannot be used ({error}); move it away, or set DAEDAL_HISTORY to another file."
        ) from None


def grown(connection: sqlite3.Connection) -> None:
    """Give a log of an earlier version the column that it lacks."""
    names = [row[1] for row in connection.execute("PRAGMA table_info(generations)")]
    if "joules" not in names:
        connection.execute("ALTER TABLE generations ADD COLUMN joules REAL")


def add(result: Result) -> int | None:
    """Log one generation; its id, or None when the log is off."""
    if location() is None:
        return None
    r = result.recipe
    row = {
        "at": time.time(), "medium": result.medium.name, "model": r["model"], "digest": r["digest"], "prompt": json.dumps(r["prompt"]),
        "settings": json.dumps(r["settings"]), "sample": r["sample"], "runtime": json.dumps(r["runtime"]), "result": result.logged,
        "tokens": result.amount, "finish_reason": result.finish_reason,
        "joules": result.joules or None,
    }  # fmt: skip
    with connected() as connection:
        return connection.execute(
            f"INSERT INTO generations ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",
            tuple(row.values()),
        ).lastrowid


def entries(
    limit: int = 20, words: str = "", medium: str = "", before: int | None = None
) -> list[Entry]:
    """The latest, newest first: those that hold `words` in prompt, text or model, of a medium, older
    than the number `before`."""
    asked = [f"%{escaped(text)}%" for text in (json.dumps(words)[1:-1], words, words)]
    where = "(prompt LIKE ? ESCAPE '~' OR result LIKE ? ESCAPE '~' OR model LIKE ? ESCAPE '~')"
    values: list[Any] = asked
    for clause, value in (("medium = ?", medium), ("id < ?", before)):
        if value not in ("", None):
            where, values = f"{where} AND {clause}", [*values, value]
    query = f"SELECT * FROM generations WHERE {where} ORDER BY id DESC LIMIT ?"
    with connected() as connection:
        return [entry(row) for row in connection.execute(query, (*values, limit))]


def spent(days: float) -> list[dict[str, Any]]:
    """What generations of the last days took, by medium and model: results, units of work, joules;
    the most first. Those of which nothing is known are left out."""
    keys = ("medium", "model", "results", "units", "joules")
    query = (
        "SELECT medium, model, count(*), sum(tokens), sum(joules) FROM generations "
        "WHERE joules IS NOT NULL AND at > ? GROUP BY medium, model ORDER BY sum(joules) DESC"
    )
    with connected() as connection:
        rows = connection.execute(query, (time.time() - days * 86_400,)).fetchall()
    return [dict(zip(keys, row, strict=True)) for row in rows]


def escaped(words: str) -> str:
    """Words as they are meant, where SQL would read % and _ as any letters."""
    return words.replace("~", "~~").replace("%", "~%").replace("_", "~_")


class Missing(DaedalError):
    """There is no generation of a number."""


def get(number: int) -> Entry:
    with connected() as connection:
        row = connection.execute("SELECT * FROM generations WHERE id = ?", (number,)).fetchone()
        if row is None:
            last = connection.execute("SELECT max(id) FROM generations").fetchone()[0]
            raise Missing(
                f"the history has no generation {number}; "
                + (f"its newest is {last}." if last else "it is empty.")
            )
        return entry(row)


def entry(row: tuple[Any, ...]) -> Entry:
    values = dict(zip([field.name for field in fields(Entry)], row, strict=True))
    return Entry(
        **values | {key: json.loads(values[key]) for key in ("prompt", "settings", "runtime")}
    )
