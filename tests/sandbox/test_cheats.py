"""No program scores without solving the task, and one that solves it does."""

import pytest

from daedal.sandbox.sandbox import Sandbox
from tests.sandbox.attacks import scored
from tests.sandbox.cheats import CASES, IN_CALLS, PRINTED, PROGRAMS

HONEST = "def f(x): return x * x + 7 * x + 3"


def test_there_are_enough() -> None:
    assert len(IN_CALLS) + len(PROGRAMS) >= 60


def test_cheats_score_nothing(sandbox: Sandbox) -> None:
    assert scored(sandbox) == {}
    assert sandbox.grade(HONEST, CASES).solved
    assert sandbox.grade(f"{HONEST}\nprint(f(int(input())))", PRINTED).solved


@pytest.mark.parametrize("share", [0, 1, 3])
def test_the_score_is_the_share_solved(sandbox: Sandbox, share: int) -> None:
    solved = [case.call.args[0] for case in CASES[:share] if case.call]
    grade = sandbox.grade(f"{HONEST} if x in {solved} else 0", CASES)
    assert grade.verdicts == tuple("ok" if i < share else "wrong" for i in range(4))
    assert grade.score == share / 4
