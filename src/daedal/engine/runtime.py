"""The runtime: generations of every medium as steps under one schedule, from any thread.

A *lane* is one loaded model with the generations that run on it: the engine of a language model,
whose step is one token for a whole batch, or a `GeneratorLane`, whose step is one step of one
picture. `wait` runs the steps. The thread that waits does the work: it takes the lead, runs
whichever lane is due until its own generation has news, and passes the lead to the next thread that
waits. So only one step runs at a time, a program of one thread pays for no other, and Ctrl-C
reaches the step that it interrupts."""

import threading
import time
import weakref
from collections.abc import Callable, Generator
from typing import Any, Protocol

from daedal.energy import METER
from daedal.engine.shares import Shares
from daedal.errors import Busy

Ready = Callable[[], bool]


class Lane(Protocol):
    """One loaded model and what runs on it. `step` must not raise for what one generation did
    wrong."""

    @property
    def busy(self) -> bool:
        """Whether a step would have something to do."""
        ...

    def step(self) -> object:
        """Do one piece of work."""
        ...


class Runtime:
    """Lanes, the threads that wait for them, and whose turn it is. Lanes share the machine's time
    evenly."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: dict[threading.Condition, Ready] = {}  # in order of arrival
        self._led = False
        self._lanes: weakref.WeakSet[Lane] = weakref.WeakSet()
        self._shares = Shares()

    def add(self, lane: Lane) -> None:
        """Let a lane have its share of steps, for as long as somebody holds it."""
        with self._mutex:
            self._lanes.add(lane)

    def wait(self, ready: Ready) -> None:
        """Run steps, or let the thread that leads run them, until `ready()`."""
        wake = threading.Condition(self._mutex)
        with self._mutex:
            self._waiting[wake] = ready
            try:
                while not ready():
                    if self._led:
                        wake.wait()
                    else:
                        self._lead(ready)
            finally:
                del self._waiting[wake]
                if not self._led and self._waiting:
                    next(iter(self._waiting)).notify()

    def _lead(self, ready: Ready) -> None:
        """Run steps until `ready()`. The mutex is held between steps, not during one."""
        self._led = True
        try:
            while not ready():
                lane = self._due()
                began = time.perf_counter()
                self._mutex.release()
                try:
                    lane.step()
                finally:
                    acquired(self._mutex)
                self._shares.charge(id(lane), time.perf_counter() - began)
                if len(self._waiting) > 1:
                    for wake, done in self._waiting.items():
                        if done is not ready and done():
                            wake.notify()
        finally:
            self._led = False

    def _due(self) -> Lane:
        busy = [lane for lane in self._lanes if lane.busy]
        if not busy:
            raise RuntimeError(
                "a generation waits and no model has work: it was never submitted, or was lost."
            )
        return (
            busy[0] if len(busy) == 1 else min(busy, key=lambda lane: self._shares.start(id(lane)))
        )


def acquired(mutex: threading.Lock) -> None:
    """Take a mutex, even when Ctrl-C comes meanwhile; the interrupt is raised once it is held."""
    try:
        mutex.acquire()
    except KeyboardInterrupt:
        mutex.acquire()
        raise


RUNTIME = Runtime()  # of this process: what computes on one machine takes turns


class Generation:
    """One generation of a GeneratorLane: a generator of steps that is asked for one at a time.

    `finished` is None while it runs, then 'stop', 'cancelled' or 'error' (then `error` is what was
    raised); it is set once. `states` collects what the steps yield, `value` is what they return."""

    def __init__(
        self,
        steps: Generator[Any, None, Any],
        weights: object = None,
        client: str = "",
        priority: int = 0,
    ) -> None:
        self.steps, self.weights, self.client, self.priority = steps, weights, client, priority
        self.states: list[Any] = []
        self.value: Any = None
        self.finished: str | None = None
        self.error: BaseException | None = None
        self.cancelled = False
        self.number = 0
        self.joules = 0.0

    def wait(self, ready: Ready) -> None:
        """Run steps, or let the thread that leads run them, until `ready()`."""
        RUNTIME.wait(ready)

    def end(self, reason: str, error: BaseException | None = None) -> None:
        """The one terminal event."""
        assert self.finished is None, f"ended twice: {self.finished}, then {reason}"
        self.error, self.finished = error, reason


class GeneratorLane:
    """A model whose work comes as generators of steps. Up to `active` of them take turns.

    Generations of equal `weights` (the adapters that they need on the shared networks) may run side
    by side; others wait until those have ended. At most `limit` may wait."""

    def __init__(self, active: int = 4, limit: int = 1024) -> None:
        self.active, self.limit = active, limit
        self.waiting: list[Generation] = []
        self.running: list[Generation] = []
        self._shares = Shares()
        self._submitted = 0
        self._mutex = threading.Lock()
        RUNTIME.add(self)

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def submit(self, generation: Generation) -> Generation:
        """Queue a generation, from any thread."""
        with self._mutex:
            if len(self.waiting) >= self.limit:
                raise Busy(
                    f"{self.limit} generations wait for this model already; try again later."
                )
            self._submitted += 1
            generation.number = self._submitted
            self.waiting.append(generation)
        return generation

    def step(self) -> None:
        """One step of the generation that is due."""
        self._drop_cancelled()
        self._admit()
        if not self.running:
            return
        generation = self._order(self.running)[0]
        mark = METER.mark()
        began = time.perf_counter()
        try:
            try:
                state = next(generation.steps)
            finally:
                generation.joules += METER.since(mark)
        except StopIteration as end:
            generation.value = end.value
            self._end(generation, "stop")
        except Exception as error:
            self._end(generation, "error", error)
        except BaseException:  # Ctrl-C in the middle of a step: its generator is gone
            self._end(generation, "cancelled")
            raise
        else:
            generation.states.append(state)
        self._shares.charge(generation.client, time.perf_counter() - began)

    def _order(self, generations: list[Generation]) -> list[Generation]:
        return self._shares.order(generations, lambda g: (g.priority, g.client, g.number))

    def _drop_cancelled(self) -> None:
        for generation in [g for g in self.running if g.cancelled]:
            generation.steps.close()
            self._end(generation, "cancelled")
        with self._mutex:
            dropped = [g for g in self.waiting if g.cancelled]
            self.waiting = [g for g in self.waiting if not g.cancelled]
        for generation in dropped:
            generation.end("cancelled")

    def _admit(self) -> None:
        with self._mutex:
            for generation in self._order(self.waiting):
                if len(self.running) >= self.active:
                    return
                if self.running and generation.weights != self.running[0].weights:
                    return  # nobody overtakes: those that run end first
                self.waiting.remove(generation)
                self.running.append(generation)

    def _end(self, generation: Generation, reason: str, error: BaseException | None = None) -> None:
        self.running.remove(generation)
        generation.end(reason, error)
