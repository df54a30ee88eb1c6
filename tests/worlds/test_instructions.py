"""Procedural instructions: right answers earn everything, broken ones less, the same seed gives the
same task, held-out ones are apart."""

import random

import pytest

from daedal.errors import DaedalError
from daedal.worlds import instructions
from daedal.worlds.instructions import MAKERS, corrupted, task
from daedal.worlds.stories import sentences, story, well_made


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("held_out", [False, True])
def test_the_answer_is_right_and_a_spoiled_one_is_not(kind: str, held_out: bool) -> None:
    for number in range(100):
        rng = random.Random(f"{kind}/{number}")
        wanted = task(rng, [kind], held_out)
        assert (
            wanted.kind == kind
            and wanted.check(wanted.answer) == 1
            and all(wanted.constraints(wanted.answer).values())
        )
        assert wanted.check(corrupted(wanted, rng)) < 1
        assert wanted.check("") < 1


def test_a_seed_gives_the_task_again() -> None:
    a, b = (task(random.Random("3/14")) for _ in range(2))
    assert (a.prompt, a.answer) == (b.prompt, b.answer)
    assert len({task(random.Random(i), ["story"]).answer for i in range(500)}) > 495


def test_held_out_pairs_never_train() -> None:
    seen = {(s.hero, s.place) for s in (story(random.Random(i)) for i in range(3000))}
    kept = {
        (s.hero, s.place) for s in (story(random.Random(i), held_out=True) for i in range(3000))
    }
    assert (
        kept
        and seen.isdisjoint(kept)
        and len(seen | kept) == len(instructions.HEROES) * len(instructions.PLACES)
    )


def test_sentences() -> None:
    told = 'Tom was sad. "Why?" asked Mia. He said, "I am lost!" Then they went home.'
    assert sentences(told) == [
        "Tom was sad.",
        '"Why?" asked Mia.',
        'He said, "I am lost!"',
        "Then they went home.",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Mia garden kite moon",
        "Mia ran. Mia ran. Mia ran.",
        "a small start.",
        "No end",
        "Yes. No. Yes.",
    ],
)
def test_words_thrown_together_are_no_story(text: str) -> None:
    assert not well_made(text)


def test_constraints_of_a_story_one_by_one() -> None:
    wanted = next(
        t
        for t in (task(random.Random(i), ["story"]) for i in range(1000))
        if "sentences" in t.prompt and "moral" in t.prompt
    )
    lines = sentences(wanted.answer)
    broken = {name for name, met in wanted.constraints(" ".join(lines[:-1])).items() if not met}
    assert broken == {"length", "moral"}
    assert not wanted.constraints(" ".join([*lines, lines[0]]))["whole sentences"]


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(DaedalError, match="story"):
        task(random.Random(0), ["storys"])
