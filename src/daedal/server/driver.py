"""Engine work off the event loop: one thread runs the steps of all generations (the runtime's
schedule decides whose) and hands what comes out to the coroutines that wait for it.

    async for events in driver.follow(handle):      # lists of events, as they come
        ...

One thread, because a step of the engine serves its whole batch: with a thread a request, each token
would wake them all."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from daedal.engine.runtime import RUNTIME
from daedal.errors import DaedalError
from daedal.pipelines.medium import Handle

log = logging.getLogger("daedal.server")


@dataclass(eq=False)
class Followed:
    """A handle, and what its reader has not seen: lists of events, errors, None at the end."""

    handle: Handle
    loop: asyncio.AbstractEventLoop
    ends: bool = False  # whether only the end is news
    queue: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    seen: int = 0

    @property
    def news(self) -> bool:
        return self.handle.done or (not self.ends and self.handle.made > self.seen)

    def collect(self) -> list[Any]:
        """What has come since, as items of the queue. After the last one the handle is done."""
        self.seen, done = self.handle.made, self.handle.done
        items: list[Any] = []
        try:
            if events := list(self.handle.events()):
                items.append(events)
        except Exception as error:
            self.handle.abandon()
            items.append(error)
        return [*items, None] if done else items


class Driver:
    """The thread, and the generations that it runs."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._followed: list[Followed] = []
        self._added = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="daedal-engines", daemon=True)
        self.restarts = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread, once nothing is followed."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join(timeout=30)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def busy(self) -> int:
        return len(self._followed)

    def add(self, handle: Handle, ends: bool = False) -> Followed:
        """Run a generation from now on, to its end."""
        followed = Followed(handle, asyncio.get_running_loop(), ends)
        with self._changed:
            self._followed.append(followed)
            self._added = True
            self._changed.notify()
        return followed

    async def follow(self, handle: Handle, ends: bool = False) -> AsyncIterator[list[Any]]:
        """The events of a generation, in lists as they come, or with `ends` all at its end, which
        spares the event loop a wake-up a token. Leaving the iterator cancels it."""
        followed = self.add(handle, ends)
        try:
            while (item := await followed.queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            if not handle.done:
                handle.abandon()

    async def ended(self, handle: Handle) -> None:
        """Wait until a generation is done."""
        async for _ in self.follow(handle, ends=True):
            pass

    # ---- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._followed and not self._stopped:
                    self._changed.wait()
                if not self._followed:
                    return
                self._added = False
            try:
                RUNTIME.wait(self._news)
                self._deliver()
            except (
                BaseException
            ) as error:  # nothing may end this thread: whoever waits, waits on it
                log.error("the engines failed and were restarted", exc_info=error)
                self._fail(error)

    def _news(self) -> bool:
        return self._added or any(followed.news for followed in self._followed)

    def _deliver(self) -> None:
        """Hand out what has come, with one wake-up of each event loop."""
        found: dict[asyncio.AbstractEventLoop, list[tuple[Followed, list[Any]]]] = {}
        for followed in [each for each in self._followed if each.news]:
            items = followed.collect()
            found.setdefault(followed.loop, []).append((followed, items))
            if items and items[-1] is None:
                with self._changed:
                    self._followed.remove(followed)
        for loop, each in found.items():
            with contextlib.suppress(RuntimeError):  # a loop that was closed has no readers
                loop.call_soon_threadsafe(put_all, each)

    def _fail(self, error: BaseException) -> None:
        """End everything that is followed, with a sentence."""
        self.restarts += 1
        failure = DaedalError(
            f"the engine failed ({type(error).__name__}) and was restarted; ask again."
        )
        with self._changed:
            lost, self._followed = self._followed, []
        for followed in lost:
            followed.handle.abandon()
            with contextlib.suppress(RuntimeError):
                followed.loop.call_soon_threadsafe(put_all, [(followed, [failure, None])])


def put_all(found: list[tuple[Followed, list[Any]]]) -> None:
    for followed, items in found:
        for item in items:
            followed.queue.put_nowait(item)
