"""Runs code that nobody trusts and says whether it is right.

    with Sandbox() as sandbox:
        sandbox.run("def f(x): return x + 1", [Call("f", (1,))]).value                      # 2
        sandbox.grade("def f(x): return x + 1", [Case(2, Call("f", (1,)))]).solved          # True
        sandbox.grade("print(int(input()) + 1)", [Case("2\\n", stdin="1\\n")]).solved        # True
        sandbox.run("echo $((1 + 1))", language="bash").stdout                              # "2\\n"

The candidate only computes. Inputs go in one by one, answers come out as plain data, and what is
expected never enters: the verdict is formed here. Every zygote proves with a canary that it
confines before it runs anything; below the tier demanded nothing runs."""

import contextlib
import os
import queue
import shutil
import stat
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from daedal.errors import DaedalError, nearest
from daedal.sandbox import canary, landlock, languages, seccomp, wire
from daedal.sandbox.outcomes import answers_of, program_verdict, result_of, verdict
from daedal.sandbox.results import (
    EMPTY,
    TIERS,
    Call,
    Case,
    Grade,
    Limits,
    Report,
    Result,
)
from daedal.sandbox.worker import Job, Worker

COMPILE = Limits(wall_s=30, cpu_s=30, memory_bytes=2**30)
PROGRAM_BYTES = 2**26  # of a compiled program
Item = TypeVar("Item")
Out = TypeVar("Out")


class Sandbox:
    """Zygotes, one a core unless `workers` says otherwise, started as they are needed.

    `tier` is the least that will do, "landlock" or "namespaces"; `at_most` keeps it from trying for
    more. DaedalError where this machine does not reach the tier. Safe to call from any thread."""

    def __init__(
        self,
        tier: str = "landlock",
        limits: Limits = Limits(),  # noqa: B008 - frozen
        workers: int | None = None,
        at_most: str = "namespaces",
    ):
        for name in (tier, at_most):
            _check_tier(name)
        _check_system()
        self.limits = limits
        self.workers = workers or len(os.sched_getaffinity(0))
        self.folder = Path(tempfile.mkdtemp(prefix="daedal-sandbox-")).resolve()
        self.folder.chmod(_mode())
        for name in ("root", EMPTY):
            (self.folder / name).mkdir(mode=0o755)
        self._removal = weakref.finalize(self, _remove, self.folder, os.getpid())
        canary.lay_out(self.folder)
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        try:
            first, self.report = self._reach(tier, at_most)
        except DaedalError:
            self._removal()
            raise
        for _ in range(self.workers - 1):
            self._idle.put(None)
        self._idle.put(first)

    def _reach(self, tier: str, at_most: str) -> tuple[Worker, Report]:
        """The first worker, at the highest tier that its canary confirms."""
        reason = ""
        for name in reversed(TIERS[1:]):
            if TIERS.index(name) > TIERS.index(at_most):
                continue
            if TIERS.index(name) < TIERS.index(tier):
                break
            self.report = Report(name, reason)
            try:
                worker = self._start()
            except DaedalError as error:
                reason = f"{reason}; {name}: {error}" if reason else f"{name}: {error}"
                continue
            return worker, Report(name, reason, self._languages(worker))
        raise DaedalError(
            f"This machine does not reach the sandbox's tier {tier!r} ({reason}); ask for a lower one, or use a system that grants it."
        )

    def _languages(self, worker: Worker) -> tuple[str, ...]:
        """Those with a tool here; without a count of processes, those that start none."""
        several = {row.name for row in languages.LANGUAGES if row.processes or row.build}
        return tuple(n for n in languages.available() if worker.counted or n not in several)

    def _start(self) -> Worker:
        """A worker that its canary has tried."""
        worker = Worker(str(self.folder), self.report.tier == "namespaces")
        ran = worker.run(
            Job(str(self.folder / EMPTY)),
            Limits(),
            b"",
            _requests(canary.CODE, [canary.call(self.folder)]),
        )
        answer = answers_of(ran, 1)[0]
        try:
            canary.judge(answer.status, answer.value, answer.error or ran.error)
        except DaedalError:
            worker.close()
            raise
        return worker

    def close(self) -> None:
        """End every zygote and remove the folder. What runs now ends first."""
        workers, self.workers = self.workers, 0
        for _ in range(workers):
            if worker := self._idle.get():
                worker.close()
        self._removal()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _worker(self) -> Iterator[Worker]:
        """A worker for a while; a dead one is started anew."""
        if not self.workers:
            raise DaedalError("This sandbox is closed; make another.")
        worker = self._idle.get()
        try:
            if worker is None or not worker.alive:
                if worker is not None:
                    worker.close()
                worker = None
                worker = self._start()
            yield worker
        finally:
            self._idle.put(worker)

    def run(
        self,
        code: str,
        calls: Sequence[Call] = (),
        stdin: str = "",
        language: str = languages.PYTHON,
        limits: Limits | None = None,
    ) -> Result:
        """Run code in a fresh process: Python with `calls` defines its functions and answers the
        calls one after another; else it is a program, from stdin to stdout. DaedalError for
        arguments that are not plain data, and for a language that has no tool here."""
        if calls and language != languages.PYTHON:
            raise DaedalError(
                f"Calls are for python, and the code is {language}; give stdin instead of calls."
            )
        limits = limits or self.limits
        with self._prepared(code, language, limits) as (job, failed):
            if failed:
                return failed
            return self._run(job, code, calls, stdin, language, limits)

    def _run(
        self,
        job: Job,
        code: str,
        calls: Sequence[Call],
        stdin: str,
        language: str,
        limits: Limits,
    ) -> Result:
        requests = _requests(code, calls) if language == languages.PYTHON else []
        with self._worker() as worker:
            ran = worker.run(job, limits, stdin.encode("utf-8", "surrogatepass"), requests)
        return result_of(ran, self.report.tier, len(calls), limits, language)

    def grade(
        self,
        code: str,
        cases: Sequence[Case],
        language: str = languages.PYTHON,
        limits: Limits | None = None,
    ) -> Grade:
        """The verdict on code. Cases with a call share one process and its limits; each case with
        stdin has a process of its own."""
        limits = limits or self.limits
        calls = [case.call for case in cases if case.call]
        if calls and len(calls) < len(cases):
            raise DaedalError("Some cases have a call and some have none; grade them apart.")
        if calls:
            result = self.run(code, calls, "", language, limits)
            verdicts = [verdict(a, c.want) for a, c in zip(result.answers, cases, strict=True)]
            return Grade(tuple(verdicts), (result,))
        with self._prepared(code, language, limits) as (job, failed):
            if failed:
                return Grade((failed.status,) * len(cases), (failed,))
            results = [self._run(job, code, (), c.stdin, language, limits) for c in cases]
        pairs = zip(results, cases, strict=True)
        return Grade(tuple(program_verdict(r, c.want) for r, c in pairs), tuple(results))

    def run_many(
        self, candidates: Sequence[tuple[str, Sequence[Call]]], limits: Limits | None = None
    ) -> list[Result]:
        """`run` of many pieces of Python at once, a worker a core; results in order."""
        return self._each(lambda one: self.run(one[0], one[1], limits=limits), candidates)

    def grade_many(
        self,
        candidates: Sequence[tuple[str, Sequence[Case]]],
        language: str = languages.PYTHON,
        limits: Limits | None = None,
    ) -> list[Grade]:
        """`grade` of many candidates at once, a worker a core; grades in order."""
        return self._each(lambda one: self.grade(one[0], one[1], language, limits), candidates)

    def _each(self, action: Callable[[Item], Out], items: Sequence[Item]) -> list[Out]:
        with ThreadPoolExecutor(max(1, self.workers)) as threads:
            return list(threads.map(action, items))

    @contextlib.contextmanager
    def _prepared(
        self, code: str, name: str, limits: Limits
    ) -> Iterator[tuple[Job, Result | None]]:
        """What a worker needs to run this code, which may be built first; or how building
        failed."""
        if name == languages.PYTHON:
            yield Job(str(self.folder / EMPTY)), None
            return
        row = languages.language(name)
        if name not in self.report.languages:
            raise DaedalError(
                f"{name} starts processes, which cannot be counted here; run as an ordinary user."
            )
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=self.folder))
        try:
            folder.chmod(_mode())
            (folder / row.source).write_bytes(code.encode("utf-8", "surrogatepass"))
            (folder / row.source).chmod(0o644)
            failed = self._build(row, folder) if row.build else None
            yield _job(row, folder, limits), failed
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _build(self, row: languages.Language, folder: Path) -> Result | None:
        """Compile to `program`, confined too; how it failed, if it did."""
        made = folder / "made"
        made.mkdir()
        made.chmod(0o777)  # a run of root's is another user; beneath a folder of ours alone else
        values = {"source": str(folder / row.source), "program": str(made / "program")}
        executables = languages.executables(row)
        job = Job(
            str(made),
            (executables[0], *(part.format(**values) for part in row.build)),
            (str(folder), "/usr/include"),
            executables,
            (str(made),),
            processes=True,
            file_bytes=PROGRAM_BYTES,
        )
        with self._worker() as worker:
            ran = worker.run(job, COMPILE, b"", [])
        result = result_of(ran, self.report.tier, 0, COMPILE, row.name)
        if result.status != "ok":
            return replace(result, error=result.error or result.stderr)
        _adopt(made / "program", folder / "program")
        return None


def examine() -> Report:
    """How well this machine confines, for `daedal doctor`: tried, not guessed."""
    try:
        with Sandbox(workers=1) as sandbox:
            return sandbox.report
    except DaedalError as error:
        return Report("none", str(error))


def _remove(folder: Path, owner: int) -> None:
    """Remove a sandbox's folder, unless this is a fork of the process that made it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _mode() -> int:
    """Of folders that runs read: those of root's runs are another user's."""
    return 0o755 if os.geteuid() == 0 else 0o700


def _check_system() -> None:
    if sys.platform != "linux":
        raise DaedalError(
            f"The sandbox needs Linux's Landlock and seccomp and this is {sys.platform}; run it on Linux, in a virtual machine if need be."
        )
    machine = os.uname().machine
    if machine not in seccomp.ARCHITECTURES:
        raise DaedalError(
            f"The sandbox has no table of system calls for {machine!r}; use {' or '.join(seccomp.ARCHITECTURES)}."
        )
    if not landlock.version():
        raise DaedalError(
            "The sandbox needs Landlock, which this kernel or container does not offer; use Linux 5.13 or newer with landlock among its security modules."
        )


def _check_tier(name: str) -> None:
    if name not in TIERS[1:]:
        raise DaedalError(
            f"{name!r} is no tier of the sandbox{nearest(name, list(TIERS[1:]))}; choose {' or '.join(TIERS[1:])}."
        )


def _job(row: languages.Language, folder: Path, limits: Limits) -> Job:
    """Start the tool on its source, or the program that was built from it."""
    program = str(folder / "program")
    if row.build:
        return Job(str(folder), (program,), (str(folder),), (program, *languages.loaders()))
    executables = languages.executables(row)
    values = {
        "source": str(folder / row.source),
        "megabytes": limits.memory_bytes * 3 // 4 // 2**20,
    }
    return Job(
        str(folder),
        (executables[0], *(part.format(**values) for part in row.arguments)),
        (str(folder),),
        executables,
        processes=row.processes,
        address_space=not row.reserves,
    )


def _requests(code: str, calls: Sequence[Call]) -> list[Any]:
    """What goes through the channel: the code, then each call."""
    asked: list[Any] = [{"program": not calls, "code": code}]
    asked += [(call.function, tuple(call.args), dict(call.kwargs)) for call in calls]
    for request in asked:
        try:
            wire.encode(request)
        except wire.WireError as error:
            raise DaedalError(f"A call's arguments cannot be sent: {error}.") from error
    return asked


def _adopt(made: Path, program: Path) -> None:
    """Take what the compiler made, if it is a plain file, where nothing confined can write."""
    number = os.open(made, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(number, "rb") as file:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise DaedalError("The compiler left no plain file; look at its arguments.")
        program.write_bytes(file.read(PROGRAM_BYTES))
    program.chmod(0o555)
