"""The tools that are there: calculator, python, time, documents, files, memory, and every medium.

    with Toolbox("calculator,python,files:notes,image:pictures") as box: box.tools

A name may have a folder behind a colon: what `documents` searches, `files` reads, and a medium
writes to."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from daedal.assist.documents.library import Library
from daedal.assist.memory.store import Memory
from daedal.assist.tools.calculator import calculated
from daedal.assist.tools.tool import Tool, object_of, text
from daedal.errors import DaedalError, nearest
from daedal.pipelines.registry import MEDIA, load
from daedal.sandbox.sandbox import Sandbox

HARMLESS = ("calculator", "time", "python")  # of no folder, no memory, no outside
SHORT = {"calc": "calculator", "py": "python", "docs": "documents"}
LARGEST = 200_000  # bytes of a file that is read
LISTED = 200  # files
Makers = dict[str, Callable[[str, contextlib.ExitStack], list[Tool]]]


class Toolbox:
    """Tools by their names, and what they hold open."""

    def __init__(self, names: str) -> None:
        self._open = contextlib.ExitStack()
        self.tools: list[Tool] = []
        try:
            for name in filter(None, (part.strip() for part in names.split(","))):
                self.tools += made(name, self._open)
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def made(name: str, held: contextlib.ExitStack) -> list[Tool]:
    """The tools of one name."""
    word, _, place = name.partition(":")
    word = SHORT.get(word, word)
    makers = MAKERS | {medium.name: medium_tools(medium.name) for medium in MEDIA}
    if word not in makers:
        known = ", ".join(makers)
        raise DaedalError(
            f"there is no tool {word!r}{nearest(word, list(makers))}; there are {known}."
        )
    return makers[word](place, held)


def without_place(word: str, make: Callable[[contextlib.ExitStack], Tool]) -> Any:
    def tools(place: str, held: contextlib.ExitStack) -> list[Tool]:
        if place:
            raise DaedalError(f"{word} takes no folder, and was given {place!r}; leave it out.")
        return [make(held)]

    return tools


# ---- without a place ----


def calculator(held: contextlib.ExitStack) -> Tool:
    del held
    schema = object_of(expression=text("The sum, like (12 + 7.5) * 3, sqrt(2) or 15% of 80."))
    return Tool("calculator", "Work out arithmetic exactly.", schema, calculated)


def clock(held: contextlib.ExitStack) -> Tool:
    del held
    schema = object_of(
        [],
        zone=text("Name of the time zone, like Europe/Oslo; left out, the user's own."),
        days={"type": "integer", "description": "So many days from today; may be negative."},
    )
    return Tool("time", "The date, the weekday and the time.", schema, told_time)


def told_time(zone: str = "", days: int = 0) -> str:
    try:
        now = datetime.now(ZoneInfo(zone)) if zone else datetime.now().astimezone()
        return (now + timedelta(days=days)).strftime("%A, %Y-%m-%d %H:%M %Z")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise DaedalError(f"{zone!r} is no time zone; write one like Europe/Oslo.") from None
    except OverflowError:
        raise DaedalError(f"{days} days from today is no date; take fewer.") from None


def python(held: contextlib.ExitStack) -> Tool:
    sandboxes: list[Sandbox] = []  # made with the first run: it takes a while

    def run(code: str) -> str:
        if not sandboxes:
            sandboxes.append(held.enter_context(Sandbox(workers=1)))
        done = sandboxes[0].run(code)
        said = done.stdout.strip()
        if done.status == "ok":
            return said or "It ran, and printed nothing; print what you want to know."
        return f"{said}\n{done.status}: {(done.error or done.stderr).strip()}".strip()

    schema = object_of(code=text("A whole program that prints its answer."))
    return Tool("python", "Run Python, without files or network.", schema, run)


def memory(held: contextlib.ExitStack) -> Tool:
    kept = held.enter_context(Memory())

    def recall(about: str) -> str:
        return kept.recall(about) or "Nothing is remembered of that."

    schema = object_of(about=text("What to look for."))
    said = "What the user said of themself in earlier conversations."
    return Tool("memory", said, schema, recall, private=True)


# ---- of a folder ----


def documents(place: str, held: contextlib.ExitStack) -> list[Tool]:
    del held
    library = Library(folder_of("documents", place))

    def search(query: str) -> str:
        hits = library.search(query, 5)
        found = (f"[{i}] {hit.file}\n{hit.passage.text}" for i, hit in enumerate(hits, 1))
        return "\n\n".join(found) or "Nothing was found."

    schema = object_of(query=text("A question, or words to look for."))
    said = "Search the user's documents."
    return [Tool("search_documents", said, schema, search, untrusted=True, private=True)]


def files(place: str, held: contextlib.ExitStack) -> list[Tool]:
    del held
    root = folder_of("files", place).resolve()

    def listed() -> str:
        found = [path for path in walked(root) if path.is_file()]
        names = [path.relative_to(root).as_posix() for path in found[:LISTED]]
        more = [f"and {len(found) - LISTED} more"] if len(found) > LISTED else []
        return "\n".join([*names, *more]) or "The folder is empty."

    def read(name: str) -> str:
        path = within(root, name)
        try:
            if path.stat().st_size > LARGEST:
                raise DaedalError(f"{name} is larger than {LARGEST:,} bytes; read another.")
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError, ValueError) as error:
            if isinstance(error, DaedalError):
                raise
            raise DaedalError(f"{name} cannot be read as text; list_files says what is there.") from None  # fmt: skip

    said = {"untrusted": True, "private": True}
    schema = object_of(name=text("Its name, as list_files says it."))
    return [
        Tool("list_files", "The files in the user's folder.", object_of(), listed, private=True),
        Tool("read_file", "Read a text file of the user's folder.", schema, read, **said),  # type: ignore[arg-type]
    ]


def walked(root: Path) -> Iterator[Path]:
    """What is in a folder and is not hidden, in order."""
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))


def within(root: Path, name: str) -> Path:
    """A file of a folder; a name that leads out of it, by whichever way, is refused."""
    try:
        path = (root / name).resolve()
    except (OSError, ValueError, RuntimeError):
        raise DaedalError(f"{name!r} is no name of a file.") from None
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts) if path.is_relative_to(root) else True  # fmt: skip
    if hidden:
        raise DaedalError(f"{name} is not in the folder; list_files says what is there.")
    return path


def folder_of(word: str, place: str) -> Path:
    if not place:
        raise DaedalError(f"{word} is of a folder; write {word}:FOLDER.")
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise DaedalError(f"{place} is no folder; give one that is there.")
    return folder


def medium_tools(name: str) -> Callable[[str, contextlib.ExitStack], list[Tool]]:
    """What makes the tool of a medium, which writes files to a folder and says their names."""
    medium = next(medium for medium in MEDIA if medium.name == name)

    def tools(place: str, held: contextlib.ExitStack) -> list[Tool]:
        del held
        pipelines: list[Any] = []
        root = Path() if medium.readable else folder_of(name, place)

        def make(prompt: str) -> str:
            if not pipelines:
                pipelines.append(load(medium.model))
            asked = within(Path(place or ".").resolve(), prompt) if medium.file else prompt
            result = pipelines[0](str(asked))
            if medium.readable:
                return result.whole
            path = free(root / f"{medium.name}{medium.suffix}")
            return f"written to {result.save(path)}"

        schema = object_of(prompt=text(medium.prompt))
        verb = medium.verb or medium.name
        said: dict[str, Any] = {
            "acts": not medium.readable,
            "untrusted": medium.file,
            "private": medium.file,
        }
        return [
            Tool(f"make_{verb}" if not medium.file else verb, medium.help, schema, make, **said)
        ]  # type: ignore[arg-type]

    return tools


def free(path: Path) -> Path:
    """A name that no file has yet."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (path.with_stem(f"{path.stem}-{stamp}{tail}") for tail in ("", *map("-{}".format, range(2, 10_000))))  # fmt: skip
    return next(name for name in names if not name.exists())


MAKERS: Makers = {
    "calculator": without_place("calculator", calculator),
    "time": without_place("time", clock),
    "python": without_place("python", python),
    "memory": without_place("memory", memory),
    "documents": documents,
    "files": files,
}
