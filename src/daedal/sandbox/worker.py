"""One zygote seen from the parent: starting it, giving it a run, watching clock and output
meanwhile."""

import contextlib
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daedal.errors import DaedalError
from daedal.sandbox import languages, wire
from daedal.sandbox.results import Limits

SOURCE = str(Path(__file__).parents[2])
START = (
    f"import sys; sys.path.insert(0, {SOURCE!r}); from daedal.sandbox import zygote; "
    f"sys.path.remove({SOURCE!r}); zygote.start()"
)
FLAGS = ("-P", "-s", "-S", "-X", "utf8")  # no site, no folder of ours on the path
PATIENCE_S = 5.0  # for a zygote to start, or to end a child that it was told to kill
READ_BYTES = 2**16


@dataclass(frozen=True)
class Job:
    """What a run is, for the zygote: Python where there is no command, else a program to start."""

    folder: str
    argv: Sequence[str] = ()
    read: Sequence[str] = ()
    execute: Sequence[str] = ()
    write: Sequence[str] = ()
    processes: bool = False
    address_space: bool = True
    file_bytes: int = 0


@dataclass
class Ran:
    """What came of a run. `stopped` says why the parent ended it: timeout, output, answer, or
    nothing."""

    exit: int = -9
    cpu_s: float = 0.0
    wall_s: float = 0.0
    max_rss: int = 0
    stopped: str = ""
    error: str = ""
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    answers: list[Any] = field(default_factory=list)


class Worker:
    """A zygote. `folder` is where sources of runs lie. DaedalError if it cannot start so."""

    def __init__(self, folder: str, with_namespaces: bool):
        self.with_namespaces = with_namespaces
        self.owner = os.getpid()
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        number = str(theirs.fileno())
        with tempfile.TemporaryFile() as log, theirs:
            arguments = [number, folder, str(int(with_namespaces)), *languages.tools()]
            self.process = subprocess.Popen(
                [sys.executable, *FLAGS, "-c", START, *arguments],
                env={"PYTHONHASHSEED": "0"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
            )
            theirs.close()
            started = self._started(log)
        self.counted: bool = started["counted"]

    def _started(self, log: Any) -> Mapping[str, Any]:
        self.control.settimeout(PATIENCE_S)
        with contextlib.suppress(TimeoutError, ConnectionError):
            if message := self.control.recv(READ_BYTES):
                said = wire.decode(message)
                if "refused" not in said:
                    return dict(said)
                self.close()
                raise DaedalError(said["refused"])
        self.close()
        log.seek(0)
        last = log.read().decode(errors="replace").strip().splitlines() or ["no word"]
        raise DaedalError(f"the sandbox's interpreter did not start: {last[-1]}")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None and self.owner == os.getpid()

    def close(self) -> None:
        """End the zygote; its children die with it."""
        self.control.close()
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()

    def run(self, job: Job, limits: Limits, stdin: bytes, requests: Sequence[Any]) -> Ran:
        """Have the zygote fork a child for this job, give it what it reads, take what it says."""
        with contextlib.ExitStack() as stack:
            pairs = [socket.socketpair() for _ in range(4 if requests else 3)]
            for pair in pairs:
                stack.callback(pair[0].close)
                stack.callback(pair[1].close)
            message = wire.encode({**vars(job), "limits": vars(limits)})
            watch = _Watch(self.control, [ours for ours, _ in pairs], limits, stdin, requests)
            try:
                socket.send_fds(self.control, [message], [theirs.fileno() for _, theirs in pairs])
                for _, theirs in pairs:
                    theirs.close()
                watch.through()
            except OSError as error:
                watch.ran.error = f"the sandbox's process ended: {error}"
            if not watch.ended:
                self._abandon(watch.pid)
        return watch.ran

    def _abandon(self, pid: int) -> None:
        """A zygote that died or does not obey is ended, with what it started: in namespaces that
        is the kernel's doing."""
        self.close()
        if pid and not self.with_namespaces:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)


class _Watch:
    """One run, watched until the zygote reports its end."""

    def __init__(
        self,
        control: socket.socket,
        ends: list[socket.socket],
        limits: Limits,
        stdin: bytes,
        requests: Sequence[Any],
    ):
        self.control = control
        self.limits = limits
        self.stdin, self.stdout, self.stderr, *channel = ends
        self.channel = channel[0] if channel else None
        self.requests = iter(requests)
        self.to_write = {self.stdin: memoryview(stdin)}
        self.incoming = bytearray()
        self.nonce = b""
        self.ran = Ran()
        self.pid = 0
        self.ended = False
        self.started = time.monotonic()
        self.deadline = self.started + limits.wall_s
        self.open = {end.fileno(): end for end in [control, *ends]}
        self.poll = select.poll()
        for end in ends:
            end.setblocking(False)
        for number in self.open:
            self.poll.register(number, select.POLLIN)
        self._more(self.stdin)
        self._ask()

    def through(self) -> None:
        """Until the child has ended and all that it wrote is read."""
        while not self.ended or self._reading():
            left = self.deadline - time.monotonic()
            if left <= 0:
                if self.ended or self.ran.stopped:
                    return
                self._stop("timeout")
                continue
            for number, events in self.poll.poll(left * 1000 + 1):
                end = self.open.get(number)
                if end is not None:
                    self._event(end, events)

    def _reading(self) -> bool:
        return bool({self.stdout.fileno(), self.stderr.fileno()} & self.open.keys())

    def _event(self, end: socket.socket, events: int) -> None:
        if end is self.control:
            self._report()
        elif events & select.POLLOUT:
            self._more(end)
        else:
            self._take(end)

    def _report(self) -> None:
        message = self.control.recv(READ_BYTES)
        if not message:
            raise ConnectionError("its control socket closed")
        said = wire.decode(message)
        if "pid" in said:
            self.pid = said["pid"]
            return
        self.ran.exit, self.ran.cpu_s, self.ran.max_rss = (
            said["exit"],
            said["cpu_s"],
            said["max_rss"],
        )
        self.ran.wall_s = time.monotonic() - self.started
        self.ended = True
        self.deadline = time.monotonic() + PATIENCE_S
        self._drop(self.control)

    def _more(self, end: socket.socket) -> None:
        """Write what waits for an end; close its writing side once stdin is through."""
        waiting = self.to_write.get(end, memoryview(b""))
        try:
            while waiting:
                waiting = waiting[end.send(waiting) :]
        except BlockingIOError:
            pass
        except ConnectionError:  # the child reads no more
            waiting = memoryview(b"")
        self.to_write[end] = waiting
        self.poll.modify(end, select.POLLIN | (select.POLLOUT if waiting else 0))
        if not waiting and end is self.stdin:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_WR)
            self._drop(end)

    def _take(self, end: socket.socket) -> None:
        try:
            part = end.recv(READ_BYTES)
        except (BlockingIOError, ConnectionResetError):
            part = b""
        if not part:
            self._drop(end)
        elif end is self.channel:
            self.incoming += part
            self._answer()
        elif end is self.stdout or end is self.stderr:
            self._print(self.ran.stdout if end is self.stdout else self.ran.stderr, part)

    def _print(self, into: bytearray, part: bytes) -> None:
        room = self.limits.output_bytes - len(self.ran.stdout) - len(self.ran.stderr)
        into += part[:room]
        if len(part) > room:
            self._stop("output")

    def _ask(self) -> None:
        """Send the next request under a new nonce, or close the channel behind the last."""
        if self.channel is None:
            return
        request = next(self.requests, None)
        if request is None:
            self.channel.shutdown(socket.SHUT_WR)
            return
        self.nonce = secrets.token_bytes(wire.NONCE_BYTES)
        self.incoming.clear()
        self.to_write[self.channel] = memoryview(wire.frame(self.nonce, request))
        self._more(self.channel)

    def _answer(self) -> None:
        # beside the value there is room for the traceback and the tuple that holds both
        try:
            whole, answer = wire.unframe(
                self.incoming, self.nonce, self.limits.answer_bytes + 2**14
            )
        except wire.WireError as problem:
            self.ran.error = str(problem)
            self._stop("answer")
            return
        if whole:
            self.ran.answers.append(answer)
            self.nonce = secrets.token_bytes(wire.NONCE_BYTES)
            self._ask()

    def _stop(self, why: str) -> None:
        if self.ended or self.ran.stopped:
            return
        self.ran.stopped = why
        self.deadline = time.monotonic() + PATIENCE_S
        self.control.send(b"kill")

    def _drop(self, end: socket.socket) -> None:
        self.poll.unregister(end)
        self.open.pop(end.fileno(), None)
