"""No program scores without solving the task, and one that solves it does."""

import pytest

from daedal.sandbox.results import Limits
from daedal.sandbox.sandbox import Sandbox
from tests.sandbox.cheats import CASES, IN_CALLS, PRINTED, PROGRAMS

SHORT = Limits(wall_s=0.4, memory_bytes=2**28)
HONEST = "def f(x): return x * x + 7 * x + 3"


def test_there_are_enough() -> None:
    assert len(IN_CALLS) + len(PROGRAMS) >= 60


def test_cheats_in_calls_score_nothing(sandbox: Sandbox) -> None:
    grades = sandbox.grade_many([(code, CASES) for code in IN_CALLS.values()], limits=SHORT)
    scores = {name: grade.score for name, grade in zip(IN_CALLS, grades, strict=True)}
    assert {name: score for name, score in scores.items() if score} == {}
    assert sandbox.grade(HONEST, CASES).solved


def test_cheating_programs_score_nothing(sandbox: Sandbox) -> None:
    grades = sandbox.grade_many([(code, PRINTED) for code in PROGRAMS.values()], limits=SHORT)
    scores = {name: grade.score for name, grade in zip(PROGRAMS, grades, strict=True)}
    assert {name: score for name, score in scores.items() if score} == {}
    assert sandbox.grade(f"{HONEST}\nprint(f(int(input())))", PRINTED).solved


@pytest.mark.parametrize("share", [0, 1, 3])
def test_the_score_is_the_share_solved(sandbox: Sandbox, share: int) -> None:
    solved = [case.call.args[0] for case in CASES[:share] if case.call]
    grade = sandbox.grade(f"{HONEST} if x in {solved} else 0", CASES)
    assert grade.verdicts == tuple("ok" if i < share else "wrong" for i in range(4))
    assert grade.score == share / 4
