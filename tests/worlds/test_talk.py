"""Small talk: what is asked for later was told before, and the program knows right answers from
wrong ones."""

import random

import pytest

from daedal.data.rows import of_task
from daedal.worlds import talk
from daedal.worlds.stories import HEROES, says


def talks(count: int, held_out: bool = False) -> list:
    return [talk.task(random.Random(f"{i}"), held_out) for i in range(count)]


def test_turns_alternate_and_every_answer_is_right() -> None:
    for task in talks(300):
        roles = [message["role"] for message in of_task(task)]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and task.check(task.answer) == 1


@pytest.mark.parametrize("held_out", [False, True])
def test_a_name_is_recalled_where_it_was_told_and_not_where_it_was_not(held_out: bool) -> None:
    asked = [task for task in talks(1500, held_out) if task.prompt in talk.ASK_NAME]
    told = [task for task in asked if task.answer.startswith("Your name")]
    assert told and len(told) < len(asked)
    for task in told:
        name = task.answer.split()[-1].rstrip(".")
        assert any(
            says(message["content"], name) for message in task.before if message["role"] == "user"
        )
        other = next(hero for hero in HEROES if hero != name)
        assert task.check(f"Your name is {other}.") < 1 and task.check("I don't know.") < 1
    for task in asked:
        if task not in told:
            assert task.check("Your name is Mia.") < 1


def test_open_questions_of_training_are_not_those_of_evaluation() -> None:
    open_ones = {words.format(what) for words, some in talk.OPEN for what in some}
    evaluated, trained = (
        {task.prompt for task in talks(3000, held_out)} & open_ones for held_out in (True, False)
    )
    assert evaluated and trained and not evaluated & trained


def test_what_was_not_asked_for_is_not_right() -> None:
    for task in talks(300):
        assert task.check("Blah blah blah. " * 9) < 1
