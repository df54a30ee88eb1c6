"""What the routes of one server share, and the way every generation goes: admitted or refused at
once, a model borrowed, the handle followed, all of it given back however the request ends."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request

from daedal.assist.documents.library import Library
from daedal.assist.memory.store import Memory
from daedal.errors import DaedalError
from daedal.pipelines import history
from daedal.pipelines.medium import Handle
from daedal.sandbox.sandbox import Sandbox, examine
from daedal.server.database import Database
from daedal.server.driver import Driver
from daedal.server.errors import ApiError
from daedal.server.files import Files
from daedal.server.jobs import Jobs
from daedal.server.metrics import Metrics
from daedal.server.models import Lease, Models
from daedal.server.trainings import made

log = logging.getLogger("daedal.server")
Value = TypeVar("Value")

MINUTE = 60.0
ACTIVE = 16  # generations of a model that run side by side; the rest waits


@dataclass(frozen=True)
class Options:
    """How a server is set up; `daedal serve` has an option for each."""

    folder: Path  # of jobs, files and their database
    host: str = "127.0.0.1"
    models: dict[str, str] = field(default_factory=dict)  # by the names that clients use
    aliases: dict[str, str] = field(default_factory=dict)
    pinned: list[str] = field(default_factory=list)
    keep_alive: float = 300.0
    queue: int = 32  # generations of a model that may wait; more are refused
    loading: dict[str, Any] = field(default_factory=dict)
    keys: Path | None = None
    origins: list[str] = field(default_factory=list)  # whose pages may call
    moderate: bool = False  # requests and answers in text
    max_body: int = 64 << 20  # bytes
    max_pixels: int = 1 << 22  # of a picture that is asked for
    quota: int = 10 << 30  # bytes of files and results on disk
    expiry: float = 7 * 86400.0  # seconds that results are kept
    documents: Path | None = None  # an indexed folder that chats may be answered from
    tools: tuple[str, ...] = ()  # that it calls for a chat on request, beside harmless ones


class Admission:
    """How many generations of each model are under way, and how long one takes."""

    def __init__(self, queue: int) -> None:
        self.queue = queue
        self.under_way: dict[str, int] = {}
        self.seconds: dict[str, float] = {}  # of a generation, a running mean

    def enter(self, name: str) -> None:
        """Count a generation in, or refuse it with an honest estimate of when to try again."""
        count = self.under_way.get(name, 0)
        if count >= ACTIVE + self.queue:
            wait = self.seconds.get(name, 1.0) * (count - ACTIVE + 1) / ACTIVE
            message = f"{count} requests to {name} are under way or wait, and no more are taken; try again in {wait:.1f} s."
            raise ApiError(429, message, "queue_full", retry_after=min(wait, 120.0))
        self.under_way[name] = count + 1

    def leave(self, name: str, seconds: float) -> None:
        self.under_way[name] -= 1
        old = self.seconds.get(name, seconds)
        self.seconds[name] = 0.9 * old + 0.1 * seconds


class Server:
    """The shared state. Made before the event loop runs, started within it."""

    def __init__(self, options: Options) -> None:
        self.options, self.folder = options, options.folder
        self.database = Database(self.folder / "server.db")
        files = self.folder / "files"
        self.files = Files(files, self.database, options.quota, options.expiry)
        self.jobs = Jobs(self.database, self.files, options.expiry)
        self.memory = Memory(self.folder / "memory.db")
        self.documents = Library(options.documents) if options.documents else None
        self.driver = Driver()
        self.metrics = Metrics(self)
        self.admission = Admission(options.queue)
        self.threads = ThreadPoolExecutor(4, "daedal-requests")
        # what takes as long as an answer has threads of its own, and short work never waits for it
        self.workers = ThreadPoolExecutor(2, "daedal-code")
        self.models: Models
        self.sandbox: Sandbox | None = None  # made when code is first to be run
        self.confines = "being tried"  # how well code would be confined
        self.making_sandbox = threading.Lock()
        self.draining = False
        self.answering: dict[str, asyncio.Task[Any]] = {}  # responses in the background, by id
        self.started = time.time()
        self._pins: list[Lease] = []  # held for as long as the server runs
        self._background: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        o = self.options
        self.models = Models(
            o.models, o.aliases, o.pinned, o.keep_alive, o.loading, lambda: made(self.folder)
        )
        self.driver.start()
        self.threads.submit(self._examine)
        self.jobs.recover()
        self._pins = [await self.models.borrow(self.models.resolved(n, "text")) for n in o.pinned]
        self.background(self._sweep())
        self.background(self.jobs.run())

    async def stop(self) -> None:
        """Let what runs end, then the engines."""
        self.draining = True
        await self.jobs.stop()
        for task in list(self._background):
            task.cancel()
        while self.driver.busy:
            await asyncio.sleep(0.01)
        if self.sandbox is not None:
            self.sandbox.close()
        for pin in self._pins:
            pin.give_back()
        await asyncio.to_thread(self.driver.stop)

    async def _sweep(self) -> None:
        looked = -MINUTE
        while True:
            await asyncio.sleep(1)
            self.models.sweep()
            if time.monotonic() > looked + MINUTE:
                looked = time.monotonic()
                await self.run(self._expire)

    def _expire(self) -> None:
        """Forget what was kept long enough."""
        self.files.sweep()
        self.jobs.sweep()
        kept_since = time.time() - self.options.expiry
        self.database.run("DELETE FROM responses WHERE created < ?", kept_since)

    def background(self, work: Any) -> asyncio.Task[Any]:
        """Run a coroutine beside the requests; it is kept until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def _examine(self) -> None:
        self.confines = str(examine())

    def run_long(self, work: Callable[..., Value], *given: Any) -> Awaitable[Value]:
        """The same for work of many seconds."""
        return asyncio.get_running_loop().run_in_executor(self.workers, lambda: work(*given))

    def run(self, work: Callable[..., Value], *given: Any) -> Awaitable[Value]:
        """Short work with a processor (tokens, pictures) on a thread."""
        return asyncio.get_running_loop().run_in_executor(self.threads, lambda: work(*given))

    def log(self, results: list[Any]) -> None:
        """Note results in this machine's history, beside the requests. Where there are keys, what
        clients ask is theirs and is not noted."""
        if self.options.keys is None and history.location() is not None:
            self.run(logged, results)

    @contextlib.asynccontextmanager
    async def started_on(
        self, name: str, begin: Callable[[Any], Handle]
    ) -> AsyncIterator[tuple[Any, Handle]]:
        """(model, handle) of a generation that `begin` starts on a model. Leaving cancels what still
        runs, and gives the model back once it has stopped."""
        if self.draining:
            raise ApiError(503, "the server is shutting down; ask another one.", retry_after=5)
        self.admission.enter(name)
        began, lease, handle = time.perf_counter(), None, None
        try:
            lease = await self.models.borrow(name)
            handle = await self.run(begin, lease.model)
            yield lease.model, handle
        finally:
            if handle is None or handle.done:
                self._left(name, began, lease)
            else:
                handle.abandon()
                self.background(self._stopped(name, began, lease, handle))

    async def worked_on(self, name: str, work: Callable[[Any, Callable[[], bool]], Value]) -> Value:
        """What work of many seconds with a model gives, on a thread. The work is given the model, and
        asks now and then whether it is unwanted; it is so once the one who waits here is gone, and
        the model is lent until it has ended."""
        if self.draining:
            raise ApiError(503, "the server is shutting down; ask another one.", retry_after=5)
        self.admission.enter(name)
        began, lease, unwanted = time.perf_counter(), None, threading.Event()
        try:
            lease = await self.models.borrow(name)
            running = asyncio.ensure_future(self.run_long(work, lease.model, unwanted.is_set))
            try:
                return await asyncio.shield(running)
            finally:
                unwanted.set()
                await asyncio.wait([running])
        finally:
            self._left(name, began, lease)

    def _left(self, name: str, began: float, lease: Lease | None) -> None:
        self.admission.leave(name, time.perf_counter() - began)
        if lease is not None:
            lease.give_back()

    async def _stopped(self, name: str, began: float, lease: Lease | None, handle: Handle) -> None:
        """Once a cancelled generation has stopped."""
        try:
            with contextlib.suppress(Exception):
                await self.driver.ended(handle)
        finally:
            self._left(name, began, lease)


def logged(results: list[Any]) -> None:
    try:
        for result in results:
            history.add(result)
    except DaedalError as error:
        log.warning("%s", error)


def server_of(request: Request) -> Server:
    return request.app.state.server


def client_of(request: Request) -> str:
    """Whose request it is: the name of the key, which has its own fair share."""
    return request.scope.get("daedal.client", "")


async def while_connected(request: Request, work: Awaitable[Value]) -> Value:
    """A result, or its cancellation as soon as nobody waits for it any more: the framework itself
    lets an answer that is not streamed run on."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client closed the connection.")
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
