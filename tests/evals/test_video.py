"""The measures of clips on models whose answers are known."""

import random
from types import SimpleNamespace

import numpy as np

from daedal.evals import video
from daedal.media import images
from daedal.pipelines.video_params import VideoMeasuring
from daedal.worlds import motion


class Knows:
    """A model that draws what it is asked, or that `spoils` it."""

    def __init__(self, spoils=lambda frames: frames) -> None:
        self.spoils, self.asked = spoils, {}
        for name in ("seen", "unseen", "given", *motion.KINDS):
            rng = random.Random(f"measure {name}")
            for _ in range(8):
                unseen = name != "seen"
                kind = "alone" if name == "given" else name if name in motion.KINDS else None
                made = motion.clip(rng, unseen, kind)
                self.asked[made.caption] = made

    def __call__(self, prompt, init=None, **settings):
        return SimpleNamespace(frames=self.spoils(motion.frames(self.asked[prompt])))


def test_a_model_that_knows_the_truth_is_as_good_as_real_clips(tmp_path):
    report = video.evaluate(Knows(), VideoMeasuring(n=8, sheet=str(tmp_path / "a.png")))
    groups = report.values
    for name in ("seen pairs", "unseen pairs", "real"):
        assert groups[name]["all"]["value"] >= 7 / 8
    assert groups["unseen pairs"]["jitter, px"]["value"] < 0.5
    assert groups["given a first frame"]["flicker"]["value"] == 0
    assert groups["chance"]["all"]["value"] <= 2 / 8
    assert images.open_image(tmp_path / "a.png").shape[1] == 8 * 64


def test_faults_are_seen():
    still = video.evaluate(Knows(lambda f: np.repeat(f[:1], len(f), 0)), VideoMeasuring(n=8)).values
    assert still["alone"]["direction"]["value"] == 0 and still["alone"]["colours"]["value"] == 1
    assert still["still"]["all"]["value"] == 1
    rng = np.random.default_rng(0)

    def noisy(frames):
        return (
            (frames.astype(int) + rng.integers(-40, 40, frames.shape)).clip(0, 255).astype(np.uint8)
        )

    assert (
        video.evaluate(Knows(noisy), VideoMeasuring(n=4)).values["given a first frame"]["flicker"][
            "value"
        ]
        > 0.5
    )
