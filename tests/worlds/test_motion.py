"""Clips that are read back from their frames."""

import random
from dataclasses import replace

import numpy as np
import pytest

from daedal.worlds import motion
from daedal.worlds.scenes import HELD_OUT, Thing


@pytest.mark.parametrize("kind", motion.KINDS)
def test_every_clip_is_read_back_from_its_frames(kind: str) -> None:
    rng, right = random.Random(7), 0
    for _ in range(12):
        made = motion.clip(rng, kind=kind)
        right += motion.correct(made, motion.frames(made))["all"]
    assert right >= 11  # two things of one colour may touch for a frame


def test_training_clips_hold_no_held_out_pair_and_unseen_ones_do() -> None:
    rng = random.Random(1)
    for unseen in (False, True):
        for _ in range(120):
            made = motion.clip(rng, unseen)
            pairs = {(m.thing.colour, m.thing.shape) for m in made.movers}
            assert bool(pairs & HELD_OUT) == unseen
            for second in np.linspace(0, motion.SECONDS, 5):
                for thing in made.scene(second).things:
                    assert thing.x - thing.radius >= -1 and thing.x + thing.radius <= 65, made


def test_another_motion_is_found_wrong() -> None:
    thing = Thing("red", "circle", 20, 32, 9)
    wanted = motion.Clip("white", (motion.Mover(thing, "moves", "right", ""),), "", "alone")
    for other, wrong in [
        (motion.Mover(replace(thing, x=44), "moves", "left", ""), "direction"),
        (motion.Mover(thing, "moves", "right", "slowly"), "speed"),
        (motion.Mover(thing), "direction"),
        (motion.Mover(replace(thing, shape="square"), "moves", "right", ""), "objects"),
        (motion.Mover(replace(thing, colour="blue"), "moves", "right", ""), "colours"),
    ]:
        found = motion.correct(wanted, motion.frames(replace(wanted, movers=(other,))))
        assert not found[wrong] and not found["all"]
    noise = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
    assert not motion.correct(wanted, noise)["all"]


def test_jitter_and_rate() -> None:
    mover = motion.Mover(Thing("green", "square", 20, 30, 9), "moves", "right", "")
    made = motion.Clip("white", (mover,), "", "alone")
    seen = motion.track(motion.frames(made), mover.thing)
    assert seen.jitter < 0.3
    assert seen.velocity() == pytest.approx([14, 0], abs=0.5)
    twice = motion.track(motion.frames(made, rate=16), mover.thing)
    assert twice.velocity(rate=16) == pytest.approx([14, 0], abs=0.7)
