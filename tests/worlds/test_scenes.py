import random

import numpy as np
import pytest

from daedal.worlds import scenes
from daedal.worlds.scenes import HELD_OUT, Scene, Thing, correct, draw, read, scene


@pytest.mark.parametrize("unseen", [False, True])
def test_every_scene_is_read_back_from_its_pixels(unseen: bool) -> None:
    rng = random.Random(5)
    for _ in range(150):
        made = scene(rng, unseen)
        assert correct(made, draw(made))["all"], made


def test_training_scenes_hold_no_held_out_pair_and_unseen_ones_do() -> None:
    rng = random.Random(1)
    pairs = [{(t.colour, t.shape) for t in scene(rng).things} for _ in range(500)]
    assert not any(pair & HELD_OUT for pair in pairs)
    assert {shape for pair in pairs for _, shape in pair} == set(scenes.SHAPES)
    assert all(
        {(t.colour, t.shape) for t in scene(rng, unseen=True).things} & HELD_OUT for _ in range(100)
    )


def test_a_wrong_picture_is_found_wrong() -> None:
    wanted = Scene(
        "white",
        (Thing("red", "circle", 16, 32, 12), Thing("blue", "star", 48, 32, 12)),
        "a red circle left of a blue star",
        "left of",
    )
    swapped = Scene(
        "white", (Thing("red", "circle", 48, 32, 12), Thing("blue", "star", 16, 32, 12)), ""
    )
    recoloured = Scene(
        "white", (Thing("blue", "circle", 16, 32, 12), Thing("red", "star", 48, 32, 12)), ""
    )
    fewer = Scene("white", wanted.things[:1], "")
    assert correct(wanted, draw(wanted)) == {
        "objects": True,
        "colours": True,
        "relation": True,
        "background": True,
        "all": True,
    }
    assert (
        not correct(wanted, draw(swapped))["relation"] and correct(wanted, draw(swapped))["colours"]
    )
    assert (
        not correct(wanted, draw(recoloured))["colours"]
        and correct(wanted, draw(recoloured))["objects"]
    )
    assert not correct(wanted, draw(fewer))["objects"]


def test_places_and_sizes_are_read_in_pixels_of_a_64_pixel_picture() -> None:
    made = Scene("black", (Thing("green", "square", 20, 40, 10, True),), "")
    for side in (64, 128):
        background, (thing,) = read(draw(made, side))
        assert (
            background == "black"
            and thing.striped
            and abs(thing.x - 20) < 1
            and abs(thing.y - 40) < 1
        )


def test_the_same_seed_draws_the_same() -> None:
    assert np.array_equal(draw(scene(random.Random(3))), draw(scene(random.Random(3))))
