"""Runs a candidate's Python inside the confined child and answers calls. It is at the candidate's
mercy: the candidate shares its memory and can make it say anything. So it says values only; whether
they are right is decided by the parent, which keeps what it expects."""

import atexit
import linecache
import os
import random
import sys
import threading
import traceback
import types
from collections.abc import Callable
from functools import partial
from typing import Any

from daedal.sandbox import wire

NAME = "<candidate>"
ERROR_CHARACTERS = 2000

Outcome = tuple[str, Any, str]  # status, value, the traceback's end


def serve(channel: int, answer_bytes: int) -> int:
    """Do what comes through the channel until it closes; returns the exit code."""
    _forget_ourselves()
    random.seed(0)
    received = receive(channel)
    if received is None:
        return 0
    nonce, request = received
    module = types.ModuleType("__main__" if request["program"] else "candidate")
    sys.modules[module.__name__] = module
    code = request["code"]
    linecache.cache[NAME] = (len(code), None, code.splitlines(True), NAME)
    if request["program"]:
        os.close(channel)
        return _program(code, module)
    outcome = attempt(lambda: exec(compile(code, NAME, "exec"), module.__dict__))
    reply(channel, nonce, outcome, answer_bytes)
    while (received := receive(channel)) is not None:
        nonce, (name, args, kwargs) = received
        outcome = attempt(partial(_call, module, name, args, kwargs))
        reply(channel, nonce, outcome, answer_bytes)
    _flush()
    return 0


def warm_up() -> None:
    """Go once through what a run goes through: the first touch of a page after a fork copies it,
    and this is done while nobody waits."""
    code = "def f(x): return x + 1"
    linecache.cache[NAME] = (len(code), None, code.splitlines(True), NAME)
    names: dict[str, Any] = {}
    exec(compile(code, NAME, "exec"), names)
    outcome = attempt(lambda: names["f"](1))
    wire.decode(wire.encode(outcome))
    wire.frame(bytes(wire.NONCE_BYTES), outcome)


def _forget_ourselves() -> None:
    """An empty environment and path: what the zygote was started with is nobody's concern."""
    os.environ.clear()
    sys.argv[:] = ["candidate.py"]


def _call(module: types.ModuleType, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
    if not callable(function := module.__dict__.get(name)):
        raise NameError(f"the code defines no function {name!r}")
    return function(*args, **kwargs)


def _program(code: str, module: types.ModuleType) -> int:
    """Run as `python candidate.py` would: to the end of its threads and exit handlers."""
    exit_code = 0
    try:
        exec(compile(code, NAME, "exec"), module.__dict__)
    except SystemExit as stop:
        exit_code = _code_of(stop)
    except BaseException as error:
        sys.stderr.write(_explain(error))
        exit_code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    _flush()
    return exit_code


def _code_of(stop: SystemExit) -> int:
    if stop.code is None or isinstance(stop.code, int):
        return (stop.code or 0) & 0xFF
    sys.stderr.write(f"{stop.code}\n")
    return 1


def attempt(action: Callable[[], Any]) -> Outcome:
    """What an action returns or raises, whichever it is."""
    try:
        return "ok", action(), ""
    except MemoryError:
        return "memory", None, "MemoryError"
    except BaseException as error:
        return "error", None, _explain(error)


def _explain(error: BaseException) -> str:
    """The traceback from the candidate's own frame on, its end if it is long."""
    ours = error.__traceback__
    while ours is not None and ours.tb_frame.f_code.co_filename != NAME:
        ours = ours.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, ours))
    except BaseException:  # its __str__ is the candidate's
        text = f"{type(error).__name__}\n"
    return text[-ERROR_CHARACTERS:]


def reply(channel: int, nonce: bytes, outcome: Outcome, answer_bytes: int) -> None:
    status, value, error = outcome
    try:
        framed = wire.frame(nonce, (status, value, error), answer_bytes)
    except wire.WireError as problem:
        framed = wire.frame(nonce, ("error", None, f"{problem}"))
    except (MemoryError, RecursionError) as problem:
        framed = wire.frame(nonce, ("memory", None, type(problem).__name__))
    view = memoryview(framed)
    while view:
        view = view[os.write(channel, view) :]


def receive(channel: int) -> tuple[bytes, Any] | None:
    """The next frame; None where the parent has closed the channel."""
    header = _exactly(channel, wire.HEADER.size)
    if header is None:
        return None
    nonce, size = wire.HEADER.unpack(header)
    content = _exactly(channel, size)
    return None if content is None else (nonce, wire.decode(content))


def _exactly(channel: int, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = os.read(channel, size - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue  # the candidate closed or replaced it
