"""What a run came to: its status, its answers, its verdicts. All of it is decided here, by the
parent."""

import signal
from typing import Any

from daedal.sandbox import compare, languages
from daedal.sandbox.results import Answer, Limits, Result, Status
from daedal.sandbox.worker import Ran


def result_of(ran: Ran, tier: str, calls: int, limits: Limits, language: str) -> Result:
    """The result of a run that was asked so many calls."""
    stdout, stderr = (part.decode("utf-8", "replace") for part in (ran.stdout, ran.stderr))
    status = status_of(ran, stderr, limits, language)
    answers = answers_of(ran, calls, status) if calls else ()
    if status == "ok":
        bad = next((a for a in answers if a.status != "ok"), None)
        status = bad.status if bad else "ok"
    return Result(
        status,
        tier,
        answers,
        stdout,
        stderr,
        error=next((a.error for a in answers if a.error), "") or ran.error,
        exit=ran.exit,
        cpu_s=ran.cpu_s,
        wall_s=ran.wall_s,
        max_rss=ran.max_rss,
    )


def status_of(ran: Ran, stderr: str, limits: Limits, language: str) -> Status:
    """How the process ended, its answers aside."""
    if ran.stopped:
        return "timeout" if ran.stopped == "timeout" else "killed"
    if ran.exit == -signal.SIGXCPU or (ran.exit == -signal.SIGKILL and ran.cpu_s >= limits.cpu_s):
        return "timeout"
    row = next((each for each in languages.LANGUAGES if each.name == language), None)
    sign = row.out_of_memory if row else "MemoryError"
    if ran.exit and sign and sign in stderr[-4096:]:
        return "memory"
    if ran.exit < 0:
        return "killed"
    return "error" if ran.exit or ran.error else "ok"


def answers_of(ran: Ran, calls: int, status: Status = "ok") -> tuple[Answer, ...]:
    """One answer for each call. Where the code did not load its error is everyone's; where the run
    ended early the rest share how it ended."""
    given = [_answer(each) for each in ran.answers]
    if given and given[0].status != "ok":
        return (given[0],) * calls
    ended = Answer("error" if status == "ok" else status, error=ran.error or "no answer came")
    return tuple([*given[1:], *[ended] * calls][:calls])


def _answer(said: Any) -> Answer:
    """What a child said, which may be anything."""
    match said:
        case ("ok", value, ""):
            return Answer("ok", value)
        case ("error" | "memory" as status, None, str(error)):
            return Answer(status, error=error)
    return Answer("error", error="the answer has no such form")


def verdict(answer: Answer, want: Any) -> Status:
    if answer.status != "ok":
        return answer.status
    return "ok" if compare.equal(answer.value, want) else "wrong"


def program_verdict(result: Result, want: str) -> Status:
    if result.status != "ok":
        return result.status
    return "ok" if compare.same_output(result.stdout, want) else "wrong"
