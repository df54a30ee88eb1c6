"""The job store as a state machine: whatever is asked in whatever order, no job is lost, none is
stuck, and what has ended stays as it ended."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from daedal.server.database import Database
from daedal.server.errors import ApiError
from daedal.server.files import Files
from daedal.server.jobs import ENDED, Jobs, Running

KINDS = ("good", "bad", "long")
NEXT = {  # what a status may become
    "queued": {"queued", "in_progress", *ENDED},
    "in_progress": {"in_progress", *ENDED},
    **{status: {status} for status in ENDED},
}


async def good(job: Running) -> None:
    job.update(0.5, seen=1)
    await asyncio.sleep(0)
    job.result(b"made", "made.txt")


async def bad(job: Running) -> None:
    await asyncio.sleep(0)
    raise ApiError(400, "it cannot be done.", "impossible")


async def long(job: Running) -> None:
    await asyncio.sleep(3600)


class JobMachine(RuleBasedStateMachine):
    """Submissions, cancellations, deletions, and processes that die without a word."""

    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.seen: dict[str, str] = {}
        self.kinds: dict[str, str] = {}
        self.open()

    def open(self) -> None:
        place = Path(self.folder.name)
        self.database = Database(place / "server.db")
        self.store = Jobs(self.database, Files(place / "files", self.database, 10**9, 60), 60)
        self.store.kinds = {"good": good, "bad": bad, "long": long}
        self.store.recover()
        self.runner = self.loop.create_task(self.store.run())

    def rest(self, turns: int = 20) -> None:
        async def wait() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(wait())

    @rule(target=jobs, kind=st.sampled_from(KINDS))
    def submit(self, kind: str) -> str:
        row = self.store.submit(kind, {"kind": kind}, "me")
        self.kinds[row["id"]] = kind
        return row["id"]

    @rule(key=st.sampled_from(["a", "b"]), kind=st.sampled_from(KINDS[:2]))
    def submit_once(self, key: str, kind: str) -> None:
        first = self.store.submit(kind, {}, "you", key)
        assert self.store.submit(kind, {}, "you", key)["id"] == first["id"]

    @rule()
    def work(self) -> None:
        self.rest()

    @rule(id=jobs)
    def cancel(self, id: str) -> None:
        if id in self.kinds:
            self.store.cancel(id, "me")

    @rule(id=jobs)
    def delete(self, id: str) -> None:
        if id in self.kinds:
            try:
                self.store.delete(id, "me")
            except ApiError as error:  # it is being stopped
                assert error.status == 409
            else:
                del self.kinds[id]
                self.seen.pop(id, None)

    @rule()
    def die(self) -> None:
        """The process is gone: its tasks end nowhere, and its worker's name is nobody's."""
        self.database.run("UPDATE jobs SET worker = 'gone/0/0' WHERE status = 'in_progress'")
        host = "UPDATE jobs SET worker = NULL WHERE worker = 'gone/0/0'"
        self.database.run(host)
        dead = self.database
        dead.change = lambda *given, **values: None  # type: ignore[method-assign]
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.rest()
        dead.close()
        self.open()

    @invariant()
    def every_job_is_there_and_goes_only_on(self) -> None:
        rows = {
            row["id"]: row for row in self.database.rows("SELECT * FROM jobs WHERE owner = 'me'")
        }
        assert rows.keys() == self.kinds.keys()
        for id, row in rows.items():
            assert row["status"] in NEXT[self.seen.get(id, "queued")], (self.seen.get(id), row)
            self.seen[id] = row["status"]
            assert (row["status"] == "failed") == (row["error"] is not None)
            if row["status"] == "completed":
                assert self.kinds[id] == "good" and row["progress"] == 1.0
                assert self.store.files.path(row["results"][0]).read_bytes() == b"made"

    def teardown(self) -> None:
        """Once the long ones are cancelled, everything ends."""
        for id, kind in list(self.kinds.items()):
            if kind == "long":
                self.store.cancel(id, "me")
        self.rest(400)
        for id in self.kinds:
            assert self.store.get(id, "me")["status"] in ENDED
        self.runner.cancel()
        self.rest()
        self.loop.close()
        self.database.close()
        self.folder.cleanup()


JobMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestJobs = JobMachine.TestCase
