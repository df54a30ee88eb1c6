"""Runs the tables of cheats and escapes and names those that succeed: for the tests and the benchmark."""

import os
import platform

from daedal.sandbox.canary import OUTSIDE, SECRET
from daedal.sandbox.results import Answer, Call, Limits
from daedal.sandbox.sandbox import Sandbox
from tests.sandbox.cheats import CASES, IN_CALLS, PRINTED, PROGRAMS
from tests.sandbox.escapes import GREEDY, expressions, system_calls

SHORT = Limits(wall_s=0.25, memory_bytes=2**28)
TIGHT = Limits(wall_s=0.4, cpu_s=1, memory_bytes=2**27, output_bytes=2**18)


def scored(sandbox: Sandbox) -> dict[str, float]:
    """Name -> score of every cheat that got one."""
    candidates = [(code, CASES) for code in IN_CALLS.values()]
    candidates += [(code, PRINTED) for code in PROGRAMS.values()]
    grades = sandbox.grade_many(candidates, limits=SHORT)
    named = zip([*IN_CALLS, *PROGRAMS], grades, strict=True)
    return {name: grade.score for name, grade in named if grade.score}


def escaped(sandbox: Sandbox) -> dict[str, object]:
    """Name -> what it said, of every escape that got out: by its own word, by what it left behind,
    or by being still there."""
    folder = sandbox.folder
    secret, before = (folder / SECRET).read_text(), sorted(os.listdir(folder / OUTSIDE))
    codes = {**expressions(), **(system_calls() if platform.machine() == "x86_64" else {})}
    call = Call("attempt", (str(folder / SECRET), str(folder / OUTSIDE)))
    results = sandbox.run_many([(code, [call]) for code in codes.values()])
    named = dict(zip(codes, results, strict=True))
    out: dict[str, object] = {n: r.answers for n, r in named.items() if not contained(r.answers[0])}
    out |= {n: "read the secret" for n, r in named.items() if secret in r.stdout + r.stderr}
    if (folder / SECRET).read_text() != secret or sorted(os.listdir(folder / OUTSIDE)) != before:
        out["something"] = "changed a file outside"
    greedy = sandbox.run_many([(code, ()) for code in GREEDY.values()], limits=TIGHT)
    for name, result in zip(GREEDY, greedy, strict=True):
        large = len(result.stdout) + len(result.stderr) > TIGHT.output_bytes
        if result.status == "ok" or result.wall_s > 3 or result.max_rss > 2**28 or large:
            out[name] = result
    return out


def contained(answer: Answer) -> bool:
    """It failed by itself and could say so: silence may be a program that another replaced."""
    if answer.status == "ok":
        return answer.value is False
    return answer.status == "error" and "error" in answer.error.splitlines()[-1].lower()
