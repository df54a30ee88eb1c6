"""Clips by name: what is given is kept, long ones are made in pieces, wrong calls are said."""

import numpy as np
import pytest

import daedal
from daedal.errors import DaedalError
from daedal.media import images, video
from daedal.pipelines import video as clips


@pytest.fixture(scope="module")
def pipeline(clip_model):
    return daedal.load(str(clip_model), dtype="fp32")


def picture(seed=0, side=32):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_the_same_seed_is_the_same_clip_and_n_are_n(pipeline, tmp_path):
    first, second = pipeline("a red circle moves", seed=5, n=2)
    assert first.frames.shape == (6, 32, 32, 3) and first.rate == 8
    again = pipeline("a red circle moves", seed=6)
    assert np.abs(again.frames.astype(int) - second.frames).max() <= 1
    assert not np.array_equal(first.frames, second.frames)
    path = first.save(tmp_path / "a.webp")
    frames, rate = video.open_clip(path)
    assert np.array_equal(frames, first.frames) and rate == 8
    assert video.recipe_of(path)["settings"]["seed"] == 5


def test_what_is_given_is_kept_to_the_bit(pipeline, tmp_path):
    images.save_image(picture(1), tmp_path / "first.png")
    images.save_image(picture(2), tmp_path / "last.png")
    ends = {"init": tmp_path / "first.png", "last": tmp_path / "last.png"}
    clip = pipeline("a red circle moves", seed=1, seconds=2, **ends)
    assert len(clip.frames) == 16
    assert np.array_equal(clip.frames[0], picture(1)) and np.array_equal(
        clip.frames[-1], picture(2)
    )
    free = pipeline("a red circle moves", seed=1, seconds=2)
    assert not np.array_equal(free.frames[1], clip.frames[1])  # the others see it


def test_a_clip_goes_on_from_a_file(pipeline, tmp_path):
    before = np.stack([picture(i) for i in range(5)])
    path = video.save_clip(before, tmp_path / "a.png", 8)
    clip = pipeline("a red circle moves", seed=1, extend=path, seconds=1)
    assert len(clip.frames) == 5 + 8 and np.array_equal(clip.frames[:5], before)
    assert clip.recipe["settings"]["extend"].startswith(str(path.resolve()))
    history = daedal.load(pipeline.name, dtype="fp32")(
        clip.recipe["prompt"], **clip.recipe["settings"]
    )
    assert np.array_equal(history.frames, clip.frames)


def test_a_loop_ends_before_where_it_began(pipeline):
    """The frame after the last is the first: it is given, and not shown twice."""
    clip = pipeline("a red circle moves", seed=1, seconds=0.625, init=picture(3), loop=True)
    closed = pipeline("a red circle moves", seed=1, seconds=0.75, init=picture(3), last=picture(3))
    assert len(clip.frames) == 5 and np.array_equal(clip.frames, closed.frames[:5])
    assert len(pipeline("a red circle moves", seed=1, seconds=1, loop=True).frames) == 8


def test_progress_counts_every_step_of_every_piece(pipeline):
    handle = pipeline.start("a red circle moves", seed=1, seconds=2)
    events = list(handle)
    assert [e.done for e in events] == list(range(1, events[-1].total + 1)) and events[
        -1
    ].total == 10
    assert events[0].preview().shape == (1, 32, 32, 3)
    assert len(handle.result().frames) == 16


def test_what_is_changed_or_unknown_is_said(pipeline):
    handle = pipeline.start("a red otter moves", seconds=0.8, size="30x33", seed=1)
    said = " ".join(handle.remarks)
    assert "32x32" in said and "6 frames" in said and "never trained on the words otter" in said
    assert handle.result().frames.shape == (6, 32, 32, 3)


def test_wrong_calls_are_one_sentence(pipeline, tmp_path):
    for wrong, named in [
        ({"loop": True, "last": "x.png"}, "no file|cannot be read"),
        ({"loop": True, "last": picture()}, "a loop ends where it begins"),
        ({"extend": picture()[None], "init": picture()}, "leave init out"),
        ({"seconds": 200}, "seconds=200 is out of range"),
        ({"sampler": "eulr"}, "did you mean"),
        ({"frames": 3}, "'frames' is not a setting of clips"),
        ({"seconds": 0.1, "init": picture()}, "ask for more"),
    ]:
        with pytest.raises(DaedalError, match=named):
            pipeline("a red circle", **wrong)
    with pytest.raises(DaedalError, match="the prompt is empty"):
        pipeline(" ")
    (tmp_path / "bad.mp4").write_bytes(b"0" * 100)
    with pytest.raises(DaedalError, match="is no video that can be read"):
        pipeline("a red circle", extend=str(tmp_path / "bad.mp4"))
    with pytest.raises(DaedalError, match=r"house/image is no model of clips|no model of clips"):
        clips.load("house/image")


def test_the_house_has_none_and_says_what_to_do():
    with pytest.raises(DaedalError, match="there is no house model of clips yet; train one"):
        clips.load("house/video")
