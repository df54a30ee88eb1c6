"""Captions read off pictures: on scenes, whose truth is known, under mirrors and sizes; and prompts
made longer by any writer."""

import random

import numpy as np
import pytest

from daedal.data import recaption
from daedal.data.pictures import Scenes
from daedal.train.pictures import sources
from daedal.train.recipe.pictures import PictureSource
from daedal.worlds import scenes


def test_scenes_are_described_as_they_are() -> None:
    """Ground and plain colours are those of the scene (stripes are darker and may be called by
    another name)."""
    rng, right, count = random.Random(0), 0, 0
    for _ in range(120):
        made = scenes.scene(rng)
        if any(thing.striped for thing in made.things):
            continue
        facts, count = recaption.read(scenes.draw(made)), count + 1
        right += facts.ground == made.background and set(facts.colours) == {
            thing.colour for thing in made.things
        }
    assert right / count > 0.95


def drawn(x: float, y: float, radius: float = 8, shape: str = "circle") -> np.ndarray:
    return scenes.draw(scenes.Scene("white", (scenes.Thing("red", shape, x, y, radius),), ""))


def test_place_size_and_symmetry_by_hand() -> None:
    assert recaption.described(drawn(32, 32)) == "red on white, in the middle, tiny, symmetric"
    assert (
        recaption.read(drawn(10, 12)).place == "at the upper left"
        and recaption.read(drawn(32, 54)).place == "in the lower part"
    )
    assert (
        recaption.read(drawn(32, 32, 14)).size == "small"
        and recaption.read(drawn(32, 32, 30)).size == "filling the picture"
    )
    assert recaption.described(np.zeros((16, 16, 3), np.uint8)) == "nothing but black"
    # half of it
    assert not recaption.read(
        np.where(np.tri(64, dtype=bool)[..., None], drawn(32, 32, 20), 255).astype(np.uint8)
    ).symmetric


def test_a_mirror_swaps_left_and_right_and_a_larger_picture_says_the_same() -> None:
    rng = random.Random(3)
    for _ in range(20):
        picture = scenes.draw(scenes.scene(rng))
        facts, mirrored = recaption.read(picture), recaption.read(picture[:, ::-1])
        swapped = facts.place.replace("left", "?").replace("right", "left").replace("?", "right")
        assert (mirrored.place, mirrored.colours, mirrored.symmetric) == (
            swapped,
            facts.colours,
            facts.symmetric,
        )
        larger = recaption.read(picture.repeat(2, 0).repeat(2, 1))
        assert (larger.ground, larger.place, larger.size, larger.symmetric) == (
            facts.ground,
            facts.place,
            facts.size,
            facts.symmetric,
        )


def test_a_share_of_captions_is_longer() -> None:
    listed = [PictureSource(path="scenes", dense=0.4)]
    ((source, weight),) = sources(listed, 32)
    rng = random.Random(0)
    captions = [source.sample(rng)[1] for _ in range(200)]
    assert weight == 1.0 and 0.3 < sum(": " in caption for caption in captions) / 200 < 0.5
    assert isinstance(sources([PictureSource(path="scenes")], 32)[0][0], Scenes)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            ' "A red square, large, in the middle on white." It is nice.\nMore.',
            "A red square, large, in the middle on white",
        ),
        # it left the prompt's words out
        ("A large shape on white.", "a red square, A large shape on white"),
        ("", "a red square"),
        ("\n\n  \n", "a red square"),
    ],
)
def test_prompts_become_longer_and_lose_nothing(answer: str, expected: str) -> None:
    asked: list[str] = []
    assert recaption.expanded("a red square", lambda text: asked.append(text) or answer) == expected
    assert "a red square" in asked[0]


def test_long_prompts_stay() -> None:
    prompt = "word " * 40
    assert recaption.expanded(prompt, lambda text: 1 / 0) == prompt  # type: ignore[arg-type,return-value]
    assert (
        len(
            recaption.expanded("a red square", lambda text: "a red square " + "very " * 100).split()
        )
        == 60
    )
