"""What a medium is: its settings, its models, its results. The command line, history, `again` and
evaluation know media only through this.

A new medium is a file of settings that ends in a `Medium`, a pipeline (a subclass of `Pipeline`)
with its handle and result, and a line in daedal.pipelines.registry. Nothing here imports torch."""

import importlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar

from daedal.errors import DaedalError
from daedal.pipelines.digest import digest
from daedal.settings import Setting


@dataclass(frozen=True)
class Loading:
    """How a model is loaded."""

    device: Annotated[str, Setting("auto, cpu, cuda, mps.")] = "auto"
    dtype: Annotated[str, Setting("What it computes in: auto, fp32, bf16, fp16.")] = "auto"


@dataclass(frozen=True)
class Medium:
    """A kind of content. `module` (imported when it is used) has `holds(path) -> bool`, whether a
    folder or file is a model of this medium, and `load(name, **loading) -> Pipeline`."""

    name: str  # also the verb, where that is not another word
    help: str  # of the verb
    prompt: str  # help for the verb's argument
    plural: str  # of its results, in sentences
    settings: type  # a dataclass of annotated settings, of one call
    loading: type
    measuring: type  # what `daedal eval` can be asked
    model: str  # the house's own
    module: str
    # a module with `evaluate(pipeline, asked: measuring) -> daedal.evals.measured.Report`
    metrics: str
    suffix: str  # of its files
    suffixes: tuple[str, ...] = ()  # of all that it can write, where these are not any
    readable: bool = False  # a result is text, which a terminal can print
    verb: str = ""
    model_flags: tuple[str, ...] = ("--model",)
    reads_files: bool = False  # the prompt may be a text file's name
    file: bool = False  # the prompt is a file's name

    @property
    def code(self) -> ModuleType:
        return importlib.import_module(self.module)


@dataclass(frozen=True)
class Result(ABC):
    """One finished piece of content and all that is needed to make it again."""

    medium: ClassVar[Medium]
    recipe: dict[str, Any]  # model, digest, prompt, settings with the seed, sample, runtime
    finish_reason: str
    # that it took, daedal.energy.METER says how they are known; 0 of what a server made
    joules: float = field(default=0.0, kw_only=True, compare=False)

    @property
    @abstractmethod
    def logged(self) -> str:
        """What the history keeps of it: the text itself, or a digest of the content."""

    @property
    @abstractmethod
    def amount(self) -> int:
        """The work in it: tokens or steps."""

    @abstractmethod
    def save(self, path: str | Path) -> Path:
        """Write it to a file, whole or not at all."""

    @classmethod
    def show(cls, results: list[Any]) -> None:
        """Show results on a terminal, where that is possible."""
        del results

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        r = self.recipe
        known = {
            "prompt": r["prompt"],
            "finish_reason": self.finish_reason,
            "model": r["model"],
            "digest": r["digest"],
        }
        known |= {"seed": r["settings"].get("seed"), "sample": r["sample"]}
        return known | ({"joules": round(self.joules, 3)} if self.joules else {})


class Handle(ABC):
    """A generation under way, of one or several results. Any thread may use it.

    Iterating yields events as they come, each with `done` and `total`, and for text with the `text`
    that became final; closing the iterator stops the work. Every handle ends once: its results are
    done, cancelled, or raise what went wrong."""

    remarks: tuple[str, ...] = ()  # what the model does not do of what was asked, a sentence each
    front: str = ""  # what stands before a text that continues it

    @property
    @abstractmethod
    def done(self) -> bool: ...

    @property
    @abstractmethod
    def made(self) -> int:
        """How much has come so far, in whatever it comes in."""

    @abstractmethod
    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready` holds."""

    @abstractmethod
    def abandon(self) -> None:
        """Have the work stopped before its next step, without waiting for that."""

    @abstractmethod
    def events(self) -> Iterator[Any]:
        """What has come since the last call."""

    @abstractmethod
    def results(self) -> list[Any]:
        """All results, waited for. A cancelled text is what there is of it."""

    def result(self, index: int = 0) -> Any:
        """One of the results, waited for."""
        return self.results()[index]

    def __iter__(self) -> Iterator[Any]:
        try:
            while True:
                yield from self.events()
                if self.done:
                    yield from self.events()
                    return
                self.advance()
        finally:
            if not self.done:
                self.abandon()

    def advance(self) -> None:
        """Wait until there is more, or the end. A Ctrl-C within it cancels the work and is passed
        on."""
        made = self.made
        try:
            self.wait_for(lambda: self.made > made or self.done)
        except BaseException:
            self.abandon()
            raise

    def cancel(self) -> None:
        """Stop the work, and wait until it has stopped."""
        self.abandon()
        self.wait_for(lambda: self.done)

    def wait(self) -> None:
        """Wait for the end."""
        while not self.done:
            self.advance()


class AwaitedHandle(Handle):
    """The handle of one result that a thread waits for, such as a server's answer; it comes whole."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        threading.Thread(target=self._work, args=(work,), daemon=True).start()

    def _work(self, work: Callable[[], Any]) -> None:
        try:
            self.future.set_result(work())
        except Exception as error:
            self.future.set_exception(error)

    @property
    def done(self) -> bool:
        return self.future.done()

    @property
    def made(self) -> int:
        return int(self.done)

    def wait_for(self, ready: Callable[[], bool]) -> None:
        with suppress(Exception):  # `results` raises it
            self.future.result()

    def abandon(self) -> None:
        """The answer is not waited for."""

    def events(self) -> Iterator[Any]:
        return iter(())

    def results(self) -> list[Any]:
        return [self.future.result()]


class SteppedHandle(Handle):
    """The handle of a generation that comes in steps (daedal.engine.runtime.GeneratorLane)."""

    def __init__(self, generation: Any) -> None:
        self.generation, self.shown = generation, 0

    @abstractmethod
    def event(self, state: Any) -> Any:
        """What a step yielded, as an event."""

    @property
    def done(self) -> bool:
        return self.generation.finished is not None

    @property
    def made(self) -> int:
        return len(self.generation.states)

    def wait_for(self, ready: Callable[[], bool]) -> None:
        self.generation.wait(ready)

    def abandon(self) -> None:
        self.generation.cancelled = True

    def events(self) -> Iterator[Any]:
        while self.shown < len(self.generation.states):
            state = self.generation.states[self.shown]
            self.generation.states[self.shown] = None  # its tensors are seen once
            self.shown += 1
            if state is not None:
                yield self.event(state)

    def share(self, count: int) -> float:
        """The joules of one of `count` results that were made together."""
        return float(self.generation.joules) / count

    def value(self) -> Any:
        """What the steps returned, waited for; what failed raises what it failed with."""
        self.wait()
        if self.generation.error:
            raise self.generation.error
        if self.generation.finished == "cancelled":
            raise DaedalError("it was cancelled before it was done; ask again.")
        return self.generation.value


class Pipeline(ABC):
    """A model behind one call, of any medium. Settings are those of the medium's settings class."""

    medium: ClassVar[Medium]
    name: str
    folder: Path | None
    loading: dict[str, Any]  # how the model was loaded

    @abstractmethod
    def start(self, prompt: Any, *, client: str = "", priority: int = 0, **settings: Any) -> Any:
        """Queue a prompt and return its handle. Clients share the model evenly; a higher `priority`
        is served first."""

    @abstractmethod
    def runtime(self) -> dict[str, Any]:
        """What the last bits of a result may depend on beside the weights, and how the model was
        loaded."""

    def recipe(self, prompt: Any, settings: dict[str, Any]) -> dict[str, Any]:
        """What makes a result again, but for which `sample` of the n it is."""
        whose = {"model": self.name, "digest": digest(self.folder) if self.folder else None}
        return whose | {"prompt": prompt, "settings": settings, "runtime": self.runtime()}

    def __call__(
        self, prompt: Any, *, on_progress: Callable[[int, int], None] | None = None, **settings: Any
    ) -> Any:
        """The result of a prompt; a list of results when n > 1."""
        results = self.results(prompt, on_progress=on_progress, **settings)
        return results if settings.get("n", 1) > 1 else results[0]

    def results(
        self,
        prompt: Any,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        on_event: Callable[[Any], None] | None = None,
        **settings: Any,
    ) -> list[Any]:
        """All n results, made side by side. `on_progress` hears (done, total), `on_event` each
        event."""
        handle = self.start(prompt, **settings)
        for event in handle:
            if on_progress:
                on_progress(event.done, event.total)
            if on_event:
                on_event(event)
        return handle.results()

    def stream(self, prompt: Any, **settings: Any) -> Any:
        """The events of one result as it is made; closing the iterator stops the work."""
        return self.start(prompt, **{**settings, "n": 1})

    def reproduce(self, recipe: dict[str, Any], amount: int | None = None) -> Any:
        """A result again from its recipe. One that was cancelled, where a part is a result, ends
        after `amount`."""
        return self.results(recipe["prompt"], **recipe["settings"])[recipe["sample"]]
