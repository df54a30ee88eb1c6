"""Files by id, on disk under a quota, until they expire: what clients upload and what jobs make.

A file's place follows from its id alone, which the server makes; its name is only shown."""

import contextlib
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from daedal.files import write_whole
from daedal.server.database import Database
from daedal.server.errors import ApiError, not_found

ID = re.compile(r"file-[0-9a-f]{24}")
SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")


class Files:
    """Files by id, of their owners."""

    def __init__(self, folder: Path, database: Database, quota: int, expiry: float) -> None:
        self.folder, self.database = folder, database
        self.quota, self.expiry = quota, expiry

    def add(
        self, data: bytes, name: str, purpose: str, owner: str, keep: bool = True
    ) -> dict[str, Any]:
        """Keep bytes; what is not to be kept expires. A full quota first loses what expires
        soonest."""
        self._make_room(len(data))
        id = f"file-{secrets.token_hex(12)}"
        write_whole(self.path(id), data)
        now = time.time()
        row = {
            "id": id,
            "name": Path(name).name[:255] or "file",
            "purpose": purpose,
            "bytes": len(data),
            "created": now,
            "expires": None if keep else now + self.expiry,
            "owner": owner,
        }
        self.database.add("files", row)
        return row

    def path(self, id: str) -> Path:
        if not ID.fullmatch(id):
            raise not_found("file", id)
        return self.folder / id

    def get(self, id: str, owner: str) -> dict[str, Any]:
        row = self.database.row("SELECT * FROM files WHERE id = ? AND owner = ?", id, owner)
        if row is None or not self.path(id).exists():
            raise not_found("file", id)
        return row

    def delete(self, id: str, owner: str) -> None:
        self.get(id, owner)
        self._forget(id)

    def sweep(self) -> None:
        """Delete what has expired."""
        for row in self.database.rows("SELECT id FROM files WHERE expires < ?", time.time()):
            self._forget(row["id"])

    def _forget(self, id: str) -> None:
        self.database.run("DELETE FROM files WHERE id = ?", id)
        self.path(id).unlink(missing_ok=True)

    def _make_room(self, need: int) -> None:
        used = self.database.rows("SELECT coalesce(sum(bytes), 0) AS n FROM files")[0]["n"]
        going = "SELECT id, bytes FROM files WHERE expires IS NOT NULL ORDER BY expires"
        for row in self.database.rows(going) if used + need > self.quota else []:
            self._forget(row["id"])
            used -= row["bytes"]
            if used + need <= self.quota:
                return
        if used + need > self.quota:
            message = (
                f"{need:,} bytes do not fit: {used:,} of {self.quota:,} are used; delete files."
            )
            raise ApiError(507, message, "quota_exceeded")


@contextlib.contextmanager
def as_file(data: bytes, name: str) -> Iterator[Path]:
    """The bytes of an upload as a file of its suffix, for as long as it is looked at."""
    suffix = Path(name).suffix
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix if SUFFIX.fullmatch(suffix) else ''}"
        path.write_bytes(data)
        yield path
