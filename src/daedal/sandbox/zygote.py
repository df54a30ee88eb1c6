"""The zygote: a fresh, single-threaded interpreter that forks a confined child for each run.
Forking it takes a millisecond where starting an interpreter takes ten, and it holds nothing worth
stealing: no environment, no descriptors but its control socket, no candidate's code, no expected
value.

The parent sends a job with the descriptors that the child shall have (stdin, stdout, stderr, and
for Python a channel); the zygote answers with how the child ended. It never reads what the child
says."""

import contextlib
import fcntl
import gc
import importlib
import os
import select
import signal
import socket
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from daedal.sandbox import confine, landlock, namespaces, runner, seccomp, system, wire
from daedal.sandbox.results import EMPTY, Limits

KILL = b"kill"
NOWHERE = "/dev/null"
MESSAGE_BYTES = 2**16
DEVICES = (NOWHERE, "/dev/zero", "/dev/urandom")
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
DATA = ("/usr/share/zoneinfo", "/etc/localtime")
# what candidates import most: loaded once here instead of in every child
PRELOADED = """
abc array base64 bisect calendar cmath collections contextlib copy csv dataclasses datetime
decimal enum fractions functools hashlib heapq inspect io itertools json math numbers operator
queue random re statistics string struct textwrap threading time traceback types typing
unicodedata zlib
"""


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code or minus its signal, what it took, in the kernel's words."""

    exit: int
    cpu_s: float
    max_rss: int


def main(control_number: int, folder: str, with_namespaces: bool, tools: list[str]) -> None:
    """Serve the parent at the other end of the control socket until it goes. `folder` is shared
    with it: sources and compiled programs of runs lie there. `tools` are paths of other languages'
    programs, which the new root must hold."""
    control = socket.socket(fileno=control_number)
    for name in PRELOADED.split():
        importlib.import_module(name)
    readable = [*python_folders(), *LIBRARIES, *DEVICES, *DATA, f"{folder}/{EMPTY}"]
    try:
        alone = with_namespaces and namespaces.enter(
            f"{folder}/root", [*readable, "/usr", "/etc/alternatives", *tools], folder
        )
        zygote = Zygote(control, readable, alone)
    except OSError as error:
        control.send(wire.encode({"refused": str(error)}))
        return
    control.send(wire.encode({"counted": zygote.who.counted}))
    gc.disable()
    gc.freeze()
    zygote.spare = zygote.fork()
    while zygote.serve():
        pass


def python_folders() -> list[str]:
    """Where the standard library lies, and what its extensions are linked with."""
    paths = [
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        sys.base_prefix + "/lib",
    ]
    return [os.path.realpath(path) for path in paths]


class Zygote:
    def __init__(self, control: socket.socket, readable: list[str], alone: bool):
        self.control = control
        self.who = confine.identity(python_folders()[0], alone)
        # far above the numbers that a child's own descriptors take
        self.python_rules = fcntl.fcntl(
            landlock.ruleset(readable, write=[NOWHERE]), fcntl.F_DUPFD_CLOEXEC, 64
        )
        judged = landlock.version() >= landlock.TRUNCATE_SINCE
        self.python_profile = seccomp.Profile(truncates=judged)
        seccomp.assemble(self.python_profile)  # kept for every child, as are the limits' ranges
        Limits()
        system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
        self.spare: tuple[int, socket.socket]

    def serve(self) -> bool:
        """One job; False once the parent is gone. The child that takes it was forked while the one
        before it ran, which takes the fork and half of the confining out of the time of a run."""
        message, descriptors = self.receive()
        if not message:
            return False
        pid, jobs = self.spare
        # one that was killed while it waited is reported as one that was killed at work
        with contextlib.suppress(ConnectionError):
            socket.send_fds(jobs, [message], descriptors)
        jobs.close()
        for number in descriptors:
            os.close(number)
        self.control.send(wire.encode({"pid": pid}))
        self.spare = self.fork()
        self.control.send(wire.encode(vars(self.wait(pid))))
        return True

    def receive(self) -> tuple[bytes, list[int]]:
        """The next job and its descriptors; nothing once the parent is gone."""
        while True:
            message, descriptors, _, _ = socket.recv_fds(self.control, MESSAGE_BYTES, 4)
            if message != KILL:  # else for a run that ended by itself meanwhile
                return message, descriptors

    def fork(self) -> tuple[int, socket.socket]:
        """A child that waits for its job, and the socket through which it comes."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            ours.close()
            self.control.close()
            self.child(theirs, parent)
        theirs.close()
        return pid, ours

    def wait(self, pid: int) -> Ended:
        """Wait for a child, or kill it when the parent says so or goes; then end its whole
        group."""
        exited = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(exited, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        if any(number != exited for number, _ in poll.poll()):
            self.control.recv(MESSAGE_BYTES, socket.MSG_DONTWAIT)
            _end(os.kill, pid)
        os.close(exited)
        _, status, usage = os.wait4(pid, 0)
        _end(os.killpg, pid)
        _reap(pid)
        code = os.waitstatus_to_exitcode(status)
        return Ended(code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)

    def child(self, jobs: socket.socket, parent: int) -> NoReturn:
        """What the forked process does, to its end. Whatever fails, nothing of the zygote runs
        on."""
        code = 1
        try:
            confine.prepare(self.who, parent)
            runner.warm_up()
            message, descriptors, _, _ = socket.recv_fds(jobs, MESSAGE_BYTES, 4)
            if not message:
                os._exit(0)
            job = wire.decode(message)
            for target, number in enumerate(descriptors):
                os.dup2(number, target)
            os.chdir(job["folder"])
            code = self.tool(job) if job["argv"] else self.python(job)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode("utf-8", "replace"))
        finally:
            os._exit(code)

    def python(self, job: dict[str, Any]) -> int:
        limits = Limits(**job["limits"])
        confine.confine(limits, self.python_rules, self.python_profile, self.who)
        gc.enable()
        return runner.serve(3, limits.answer_bytes)

    def tool(self, job: dict[str, Any]) -> NoReturn:
        profile = seccomp.Profile(
            execute=True,
            processes=job["processes"],
            signals=job["processes"] and landlock.version() >= landlock.SCOPES_SINCE,
            changes=bool(job["write"]),
            truncates=bool(job["write"]) or landlock.version() >= landlock.TRUNCATE_SINCE,
        )
        rules = landlock.ruleset(
            [*LIBRARIES, *DEVICES, *job["read"]], job["execute"], [NOWHERE, *job["write"]]
        )
        for name in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
            signal.signal(name, signal.SIG_DFL)
        confine.confine(
            Limits(**job["limits"]),
            rules,
            profile,
            self.who,
            file_bytes=job["file_bytes"],
            address_space=job["address_space"],
        )
        os.closerange(3, 4)
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TMPDIR": job["folder"]}
        os.execve(job["argv"][0], job["argv"], environment)


def _end(kill: Callable[[int, int], None], pid: int) -> None:
    try:
        kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _reap(group: int) -> None:
    """Wait for what a child left: it is killed already, and comes to this process as it dies."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-group, os.WNOHANG)[0] == 0:
                time.sleep(0.001)
        except ChildProcessError:
            return


def start() -> None:
    """What `daedal.sandbox.worker` starts an interpreter for."""
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3] == "1", sys.argv[4:])
