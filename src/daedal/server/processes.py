"""Verbs of the command line as the work of jobs, each in a process of its own: training, measuring
and packing weights take minutes of all cores and gigabytes that the server's memory is spared."""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

from daedal.errors import DaedalError

LOOK = 0.4  # seconds between looks at what a verb has written
GRACE = 60.0  # seconds that a verb has to end once it is asked to, as for a checkpoint
TAIL = 4000  # bytes of its log in which the sentence of an error is looked for


async def verb(
    args: list[str], log: Path, cwd: Path | None = None, look: Callable[[], None] = lambda: None
) -> str:
    """Run `daedal ARGS`; what it printed. Its remarks go to the file `log`, and `look` is called
    now and then. Cancelled, it is asked to end, and waited for. Raises DaedalError with its own
    sentence where it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as remarks:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # no module is taken from the folder that it runs in
            "-m",
            "daedal.cli.child",
            *args,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=remarks,
            cwd=cwd,
        )
    assert child.stdout
    printed = asyncio.ensure_future(child.stdout.read())
    try:
        await watched(child, look)
    finally:
        if child.returncode is None:
            await ended(child)
    output = (await printed).decode(errors="replace")
    if child.returncode:
        raise DaedalError(sentence(log) or f"daedal {args[0]} ended with {child.returncode}.")
    return output


async def watched(child: asyncio.subprocess.Process, look: Callable[[], None]) -> None:
    while child.returncode is None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(child.wait()), LOOK)
        await asyncio.to_thread(look)


async def ended(child: asyncio.subprocess.Process) -> None:
    """Ask a process to end, and see to it that it does."""
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    try:
        await asyncio.wait_for(child.wait(), GRACE)
    finally:
        if child.returncode is None:
            child.kill()


def sentence(log: Path) -> str:
    """The last thing that a verb said of itself."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        lines = file.read().decode(errors="replace").splitlines()
    said = [line.removeprefix("daedal: ") for line in lines if line.startswith("daedal: ")]
    return said[-1] if said else ""
