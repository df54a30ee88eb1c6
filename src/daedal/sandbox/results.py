"""What goes into the sandbox and what comes out: calls, cases, limits, results. Plain frozen
data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from daedal.settings import Setting, check, settings_of

Status = Literal["ok", "wrong", "error", "timeout", "memory", "killed"]
TIERS = ("none", "landlock", "namespaces")  # each confines more than the one before it
MIB = 2**20
EMPTY = "empty"  # the folder where Python runs, of a sandbox's own


@dataclass(frozen=True)
class Limits:
    """What one run may take. `wall_s` and `output_bytes` are watched from outside, the others are
    the kernel's."""

    wall_s: Annotated[float, Setting("Seconds on the clock.", 0.01, 3600)] = 5.0
    cpu_s: Annotated[int, Setting("Seconds of processor time, all threads.", 1, 3600)] = 5
    memory_bytes: Annotated[int, Setting("Memory of a process.", 64 * MIB, 2**40)] = 512 * MIB
    output_bytes: Annotated[int, Setting("Of stdout and stderr together.", 1, 2**30)] = MIB
    answer_bytes: Annotated[int, Setting("Of one call's answer.", 64, 2**26)] = MIB
    tasks: Annotated[int, Setting("Threads and processes at once.", 1, 4096)] = 64

    def __post_init__(self) -> None:
        for name, (_, setting) in settings_of(Limits).items():
            check(name, getattr(self, name), setting)


@dataclass(frozen=True)
class Call:
    """A function of the candidate by name, and plain data to give it."""

    function: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A test: either a call and the value that it should return, or a program's stdin and the
    stdout that it should print. What is wanted stays with the parent."""

    want: Any
    call: Call | None = None
    stdin: str = ""


@dataclass(frozen=True)
class Answer:
    """What one call gave. `value` is plain data; `error` is the traceback's end, else empty."""

    status: Status
    value: Any = None
    error: str = ""


@dataclass(frozen=True)
class Result:
    """What a run did. `answers` has one for each call that was asked, in order; those that were
    not reached carry the status that ended the run. `exit` is the exit code, or minus the signal
    that ended it."""

    status: Status
    tier: str
    answers: tuple[Answer, ...] = ()
    stdout: str = ""
    stderr: str = ""
    error: str = ""
    exit: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    max_rss: int = 0  # bytes

    @property
    def value(self) -> Any:
        """What the last call returned."""
        return self.answers[-1].value if self.answers else None


@dataclass(frozen=True)
class Grade:
    """The verdict on a candidate: a status for each case, in order, and the runs behind them."""

    verdicts: tuple[Status, ...]
    results: tuple[Result, ...]

    @property
    def score(self) -> float:
        """The share of cases passed, 0 to 1; 0 where there are none."""
        return self.verdicts.count("ok") / len(self.verdicts) if self.verdicts else 0.0

    @property
    def solved(self) -> bool:
        return self.score == 1.0


@dataclass(frozen=True)
class Report:
    """How well this machine confines: the tier reached, the reason why it is no higher, and which
    languages run."""

    tier: str
    reason: str = ""
    languages: tuple[str, ...] = ()

    def __str__(self) -> str:
        because = f" ({self.reason})" if self.reason else ""
        runs = f"; runs {', '.join(self.languages)}" if self.languages else ""
        return f"{self.tier}{because}{runs}"
