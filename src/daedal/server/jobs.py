"""Long work that outlives its request: `/v1/jobs`, which batches, trainings, downloads and the
generations that nobody waits for are kept as.

A job is queued, in_progress, and then completed, failed or cancelled; it is in the database before
its request is answered. What a killed server was running is failed with that reason when the next
one starts; what was queued then runs."""

import asyncio
import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daedal.server.database import Database
from daedal.server.errors import ApiError, api_error, not_found
from daedal.server.files import Files

LONG = ("train", "evaluate", "quantize")  # kinds of work in processes of their own
ENDED = ("completed", "failed", "cancelled")
LOST = "the server stopped while this ran; ask again."
Work = Callable[["Running"], Awaitable[None]]


def worker(pid: int | None = None) -> str:
    """This process, or another of this machine: its host, its number, when it began (numbers are
    used again); only its host and number where that is not to be known."""
    number = os.getpid() if pid is None else pid
    began = ""
    with contextlib.suppress(OSError, IndexError):
        stat = Path(f"/proc/{number}/stat").read_text()
        began = stat.rpartition(")")[2].split()[19]
    return f"{socket.gethostname()}/{number}/{began}"


def alive(name: str | None) -> bool:
    """Whether the process of a name still runs, as far as this machine can tell."""
    host, _, rest = (name or "//").partition("/")
    number = rest.partition("/")[0]
    if host != socket.gethostname() and name:
        return True  # it is another machine's to say
    if not number.isdigit() or name != worker(int(number)):
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@dataclass
class Running:
    """A job as its work sees it."""

    jobs: "Jobs"
    row: dict[str, Any]

    @property
    def id(self) -> str:
        return self.row["id"]

    @property
    def request(self) -> dict[str, Any]:
        return self.row["request"]

    @property
    def owner(self) -> str:
        return self.row["owner"]

    def update(self, progress: float, **detail: Any) -> None:
        """How far it is, from 0 to 1, and what else is worth knowing."""
        self.row["detail"] |= detail
        self.row["progress"] = progress
        self.jobs.database.change("jobs", self.id, progress=progress, detail=self.row["detail"])

    def result(self, data: bytes, name: str, keep: bool = False) -> str:
        """Keep a result; the id of its file."""
        file = self.jobs.files.add(data, name, "user_data", self.owner, keep)
        self.row.setdefault("made", []).append(file["id"])
        self.jobs.database.change("jobs", self.id, results=self.row["made"])
        return file["id"]


class Jobs:
    """The jobs of a server: a table, and the work of those that run."""

    def __init__(self, database: Database, files: Files, expiry: float, active: int = 2) -> None:
        self.database, self.files, self.expiry = database, files, expiry
        self.kinds: dict[str, Work] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._kinds: dict[str, str] = {}  # of those
        self._active, self._wake = active, asyncio.Event()
        self._stopping = False

    def recover(self) -> None:
        """After a start: what a process ran that is gone is failed; what waits stays."""
        error = json.dumps({"code": "server_stopped", "message": LOST})
        for row in self.database.rows("SELECT id, worker FROM jobs WHERE status = 'in_progress'"):
            if not alive(row["worker"]):
                ended = "UPDATE jobs SET status = 'failed', error = ?, ended = ? WHERE id = ?"
                self.database.run(ended, error, time.time(), row["id"])

    def submit(
        self, kind: str, request: dict[str, Any], owner: str, idempotency: str | None = None
    ) -> dict[str, Any]:
        """Keep a job; the same idempotency key gives the same job."""
        same = "SELECT * FROM jobs WHERE owner = ? AND kind = ? AND idempotency = ?"
        if idempotency and (row := self.database.row(same, owner, kind, idempotency)):
            if row["request"] != request:
                message = f"the idempotency key {idempotency!r} was used for another request."
                raise ApiError(409, message, "idempotency_conflict")
            return row
        idempotency = idempotency or None
        id, now = f"job_{secrets.token_hex(12)}", time.time()
        row = {"id": id, "kind": kind, "status": "queued", "request": request, "created": now}
        row |= {"expires": now + self.expiry, "owner": owner, "idempotency": idempotency}
        self.database.add("jobs", row)
        self._wake.set()
        return self.get(id, owner)

    def get(self, id: str, owner: str) -> dict[str, Any]:
        row = self.database.row("SELECT * FROM jobs WHERE id = ? AND owner = ?", id, owner)
        if row is None:
            raise not_found("job", id)
        return row

    def cancel(self, id: str, owner: str) -> dict[str, Any]:
        """Stop a job; one that has ended stays as it is."""
        row = self.get(id, owner)
        statement = (
            "UPDATE jobs SET status = 'cancelled', ended = ? WHERE id = ? AND status = 'queued'"
        )
        if row["status"] == "queued" and self.database.run(statement, time.time(), id):
            return self.get(id, owner)
        if task := self._running.get(id):
            task.cancel()
        return row

    async def followed(self, id: str, owner: str) -> AsyncIterator[dict[str, Any]]:
        """A job each time that it has changed, until it has ended."""
        shown: dict[str, Any] = {}
        while True:
            row = self.get(id, owner)
            if row != shown:
                yield row
                shown = row
            if row["status"] in ENDED:
                return
            await asyncio.sleep(0.2)

    def delete(self, id: str, owner: str) -> None:
        """Forget a job and its results; one that runs is stopped first."""
        row = self.cancel(id, owner)
        if row["status"] not in ENDED and id in self._running:
            raise ApiError(409, f"{id} still runs and is being stopped; delete it then.", "busy")
        for file in row["results"]:
            self.files.database.run("DELETE FROM files WHERE id = ?", file)
            self.files.path(file).unlink(missing_ok=True)
        self.database.run("DELETE FROM jobs WHERE id = ?", id)

    def sweep(self) -> None:
        """Forget ended jobs that have expired."""
        self.database.run(
            "DELETE FROM jobs WHERE expires < ? AND status IN ('completed', 'failed', 'cancelled')",
            time.time(),
        )

    async def run(self) -> None:
        """Run what is queued, the oldest first, until cancelled."""
        while True:
            self._wake.clear()
            for long in (False, True):
                for row in self._next(long):
                    self._begin(row)
            await self._wake.wait()

    def _next(self, long: bool) -> list[dict[str, Any]]:
        """The jobs to begin with. Long ones, which take all cores for hours, run one at a time and
        keep no other waiting."""
        under_way = [kind in LONG for kind in self._kinds.values()].count(long)
        room = (1 if long else self._active) - under_way
        which = f"kind {'IN' if long else 'NOT IN'} {LONG}"
        queued = f"SELECT * FROM jobs WHERE status = 'queued' AND {which}"
        query = f"{queued} ORDER BY created, id LIMIT ?"
        return self.database.rows(query, max(room, 0))

    def _begin(self, row: dict[str, Any]) -> None:
        """Run a job, unless another process of the same database was quicker."""
        claim = "UPDATE jobs SET status = 'in_progress', started = ?, worker = ? WHERE id = ? AND status = 'queued'"
        if not self.database.run(claim, time.time(), worker(), row["id"]):
            return
        row |= {"status": "in_progress"}
        task = asyncio.get_running_loop().create_task(self._work(row))
        self._running[row["id"]], self._kinds[row["id"]] = task, row["kind"]

    async def _work(self, row: dict[str, Any]) -> None:
        status, error = "completed", None
        try:
            await self.kinds[row["kind"]](Running(self, row))
        except asyncio.CancelledError:
            status = "failed" if self._stopping else "cancelled"
            error = {"code": "server_stopped", "message": LOST} if self._stopping else None
        except Exception as failure:
            found = api_error(failure)
            status, error = "failed", {"code": found.code or "failed", "message": found.message}
        finally:
            self._running.pop(row["id"], None)
            self._kinds.pop(row["id"], None)
            done = {"progress": 1.0} if status == "completed" else {}
            now = time.time()
            self.database.change("jobs", row["id"], status=status, error=error, ended=now, **done)
            self._wake.set()

    async def stop(self) -> None:
        """End what runs, which is lost and says so."""
        self._stopping = True
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
