"""Word problems: the answers are right, what is held out is never trained on, and results are read
from whatever a model writes."""

import random
import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daedal.worlds import arithmetic
from daedal.worlds.arithmetic import HELD_OUT, MOST, result_of, task


def problems(count: int, held_out: bool = False) -> list[arithmetic.Task]:
    return [task(random.Random(f"test/{i}"), held_out) for i in range(count)]


def start(problem: arithmetic.Task) -> int:
    return int(re.search(r"\d+", problem.prompt)[0])


def test_answers_are_right() -> None:
    for problem in [*problems(300), *problems(300, held_out=True)]:
        steps = re.findall(r"(\d+) ([-+x]) (\d+) = (\d+)\.", problem.answer)
        value = start(problem)
        for left, sign, right, result in steps:
            assert int(left) == value
            value = {"+": value + int(right), "-": value - int(right), "x": value * int(right)}[
                sign
            ]
            assert int(result) == value and 0 < value <= MOST
        # the numbers told are those used
        assert re.findall(r"\d+", problem.prompt)[1:] == [right for _, _, right, _ in steps]
        assert (
            problem.check(problem.answer) == 1.0
            and problem.check(str(value + 1)) == 0.0
            and problem.check("") == 0.0
        )
        assert problem.answer.endswith(f"The answer is {value}.")


def test_held_out_problems_are_disjoint_and_of_the_same_kind() -> None:
    seen, unseen = problems(2000), problems(500, held_out=True)
    assert {start(p) for p in unseen} == set(HELD_OUT) and not {start(p) for p in seen} & set(
        HELD_OUT
    )
    assert not {p.prompt for p in seen} & {p.prompt for p in unseen}
    for some in (seen, unseen):
        assert {p.answer.count("=") for p in some} == {1, 2, 3} and {
            sign for p in some for sign in "+-x" if f" {sign} " in p.answer
        } == set("+-x")
    assert any(re.search(rf"= {HELD_OUT[0]}\.", p.answer) for p in seen)


def test_the_same_seed_gives_the_same_problem() -> None:
    again = task(random.Random("test/3"))
    assert (again.prompt, again.answer) == (problems(4)[3].prompt, problems(4)[3].answer)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("3 + 4 = 7. The answer is 7.", 7),
        ("the ANSWER IS: 12 apples", 12),
        ("The answer is 5. No, the answer is 6.", 6),
        ("3 + 4 = 7. 7 - 2 = 5", 5),
        ("3 + 4 = 7. 7 - 2", 7),
        ("Mia has 9 now.", 9),
        ("The answer is -3.", -3),
        ("5-3", 3),
        ("The answer is 1,234.", 1234),
        ("The answer is $42", 42),
        ("The answer is big. 4 + 4 = 8.", 8),
        ("The answer is 3.5.", Decimal("3.5")),
        ("The answer is $2.50", Decimal("2.5")),
        ("It is .25", Decimal("0.25")),
        ("-0.5 = -0.50", Decimal("-0.5")),
        ("The answer is 3.0", 3),
        ("See fig.7. The answer is", 7),
        ("The answer is", None),
        ("", None),
        ("no idea", None),
    ],
)
def test_result_of(text: str, result: int | None) -> None:
    assert result_of(text) == result


@given(st.text())
def test_result_of_any_text_is_a_number_or_none(text: str) -> None:
    assert result_of(text) is None or isinstance(result_of(text), int | Decimal)
