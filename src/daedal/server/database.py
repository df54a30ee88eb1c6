"""The server's one SQLite file: tables of files, jobs and stored responses. Every statement is a
transaction of its own; a killed process leaves the last one whole or undone."""

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any, Literal

from daedal.errors import DaedalError

SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, purpose TEXT NOT NULL, bytes INTEGER NOT NULL,
    created REAL NOT NULL, expires REAL, owner TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, status TEXT NOT NULL, request TEXT NOT NULL,
    progress REAL NOT NULL DEFAULT 0, detail TEXT NOT NULL DEFAULT '{}', error TEXT, results TEXT NOT NULL DEFAULT '[]',
    created REAL NOT NULL, started REAL, ended REAL, expires REAL, owner TEXT NOT NULL, idempotency TEXT,
    worker TEXT);
CREATE INDEX IF NOT EXISTS in_order ON jobs (owner, created, id);
CREATE INDEX IF NOT EXISTS files_in_order ON files (owner, created, id);
CREATE UNIQUE INDEX IF NOT EXISTS once ON jobs (owner, kind, idempotency) WHERE idempotency IS NOT NULL;
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, created REAL NOT NULL, owner TEXT NOT NULL, body TEXT NOT NULL, messages TEXT NOT NULL);
"""
JSON_COLUMNS = ("request", "detail", "error", "results", "body", "messages")


class Database:
    """Rows as dictionaries; columns of JSON are read and written as what they hold."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, check_same_thread=False, isolation_level=None, timeout=10
            )
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.executescript(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise DaedalError(
                f"the server's database {path} cannot be used ({error}); give another --folder."
            ) from None

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        with self._lock:
            found = self._connection.execute(query, values).fetchall()
        return [
            {
                key: json.loads(row[key]) if key in JSON_COLUMNS and row[key] else row[key]
                for key in row.keys()  # noqa: SIM118 (a Row iterates over its values)
            }
            for row in found
        ]

    def row(self, query: str, *values: Any) -> dict[str, Any] | None:
        return next(iter(self.rows(query, *values)), None)

    def listed(
        self,
        table: str,
        limit: int,
        after: str | None = None,
        order: Literal["asc", "desc"] = "desc",
        **wanted: Any,
    ) -> list[dict[str, Any]]:
        """At most `limit` rows whose columns are as `wanted` (None: any), oldest or newest first,
        behind the row with the id `after`; from the start where there is none such."""
        given = {key: value for key, value in wanted.items() if value is not None}
        clauses, values = [f"{key} = ?" for key in given], list(given.values())
        mark = self.row(f"SELECT created, id FROM {table} WHERE id = ?", after) if after else None
        if mark:
            clauses.append(f"(created, id) {'>' if order == 'asc' else '<'} (?, ?)")
            values += mark.values()
        where = f"WHERE {' AND '.join(clauses)} " if clauses else ""
        query = f"SELECT * FROM {table} {where}ORDER BY created {order}, id {order} LIMIT ?"
        return self.rows(query, *values, limit)

    def run(self, statement: str, *values: Any) -> int:
        """The number of rows that changed."""
        with self._lock:
            return self._connection.execute(statement, values).rowcount

    def add(self, table: str, row: dict[str, Any]) -> None:
        marks = ", ".join("?" * len(row))
        self.run(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", *written(row))

    def change(self, table: str, id: str, **values: Any) -> None:
        names = ", ".join(f"{key} = ?" for key in values)
        self.run(f"UPDATE {table} SET {names} WHERE id = ?", *written(values), id)

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def written(row: dict[str, Any]) -> list[Any]:
    return [
        json.dumps(value) if key in JSON_COLUMNS and value is not None else value
        for key, value in row.items()
    ]
