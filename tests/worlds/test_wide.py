"""Exercises in many phrasings: their own answers are right, what is held out never turns up in
training, and wrong answers earn less."""

import random
import re

import pytest

from daedal.worlds import instructions, problems, reading, requests
from daedal.worlds.answers import fit_to_learn, refuses
from daedal.worlds.lexicon import NAMES, THINGS, is_held_out, name, plural
from daedal.worlds.stories import words


def some(kind: str, count: int, held_out: bool = False) -> list:
    rngs = (random.Random(f"{kind}/{i}") for i in range(count))
    return [instructions.task(rng, [kind], held_out) for rng in rngs]


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("kind", instructions.WIDE)
def test_its_own_answer_is_right_and_another_is_not(kind: str, held_out: bool) -> None:
    tasks = some(kind, 120, held_out)
    assert all(task.check(task.answer) == 1 for task in tasks)
    wrong = [task.check("Blah blah, blah!\n" * 9) for task in tasks]
    assert max(wrong) < 1


def test_phrasings_are_on_one_side() -> None:
    """The first words of word problems' questions, by whether they are held out."""
    last = [
        {re.split(r"(?<=[.])\s", task.prompt)[-1] for task in some("unsafe", 400, held_out)}
        for held_out in (False, True)
    ]
    assert not last[0] & last[1]
    for phrasings in (problems.START, problems.MORE, problems.LESS, reading.FRAMES, requests.TELL):
        assert phrasings[0] and phrasings[1] and not set(phrasings[0]) & set(phrasings[1])


def test_words_are_on_one_side() -> None:
    held = {word for word in THINGS if is_held_out(word)}
    assert held and len(held) < len(THINGS) / 4
    for kind in ("tell", "worded", "correct"):
        trained = {word for task in some(kind, 300) for word in words(task.prompt + task.answer)}
        assert not trained & held
        tested = {word for task in some(kind, 300, True) for word in words(task.prompt)}
        assert tested & held


def test_names_are_copied_not_known() -> None:
    rng = random.Random(0)
    found = [name(rng) for _ in range(2000)]
    made = set(found) - set(NAMES)
    assert len(made) > 500 and not any(map(is_held_out, found))


def test_a_problem_has_two_steps_when_it_is_held_out_and_its_sums_are_right() -> None:
    for task in some("problem", 400, held_out=True):
        sums = re.findall(r"(\d+) ([-+x]) (\d+) = (\d+)", task.answer)
        assert len(sums) == 2
        for a, sign, b, c in sums:
            found = {"+": int(a) + int(b), "-": int(a) - int(b), "x": int(a) * int(b)}[sign]
            assert found == int(c) > 0
        assert task.check("The answer is 999.") == 0


def test_what_a_text_says_is_not_refused_and_what_it_does_not_say_is() -> None:
    for task in some("reading", 300):
        assert not refuses(task.answer) and task.check("I don't know.") < 1
    for task in some("unsaid", 300):
        assert refuses(task.answer) and task.check("The hat is red.") < 1


def test_a_request_asks_for_what_its_check_looks_for() -> None:
    for i in range(300):
        asked, plan = requests.planned_story(random.Random(i), held_out=False)
        assert plan.hero in asked.prompt
        assert not plan.thing or plan.thing in asked.prompt
        assert asked.constraints("I don't know.")["whole sentences"]
        assert asked.check("I don't know.") < 1


def test_what_is_not_fit_to_learn() -> None:
    good = "A hen is a bird. It lays eggs, and people keep it on a farm."
    assert fit_to_learn("explain", good)
    for bad in ("As an AI language model, I like hens.", "H\u00e9ns are birds that we like a lot.", "A hen is a hen is a hen is a hen is a hen.", "Hens.", "A hen is a"):  # fmt: skip
        assert not fit_to_learn("explain", bad)


def test_plurals() -> None:
    assert [*map(plural, ("fox", "mouse", "cherry", "toy", "leaf"))] == [
        "foxes",
        "mice",
        "cherries",
        "toys",
        "leaves",
    ]
