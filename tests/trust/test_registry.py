"""Files that this machine made are known byte for byte, and saved again in another way; unlike ones
are not."""

import numpy as np
import pytest
from PIL import Image

from daedal.media import audio, images, video
from daedal.pipelines.image_result import Picture
from daedal.trust import registry
from daedal.trust.fingerprint import differing, fingerprint, grey, of_greys, of_sound

RECIPE = {
    "model": "house/image", "digest": "ab" * 32, "prompt": "a red circle", "settings": {"seed": 1},
    "sample": 0, "runtime": {},
}  # fmt: skip


@pytest.fixture(autouse=True)
def log(tmp_path, monkeypatch):
    monkeypatch.setenv("DAEDAL_HISTORY", str(tmp_path / "history.db"))


def clouds(seed: int, side: int = 96) -> np.ndarray:
    """A picture with the spectrum of photographs: amplitude as one over frequency."""
    f = np.fft.fftfreq(side)
    radius = np.hypot(f[:, None], f[None]) + 1 / side
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=(side, side)))
    picture = np.fft.ifft2(noise / radius).real
    picture = (picture - picture.min()) / np.ptp(picture)
    return np.repeat((picture * 255).astype(np.uint8)[..., None], 3, -1)


def made(seed: int) -> Picture:
    return Picture(RECIPE, "stop", clouds(seed), 4)


def test_a_picture_is_known_as_it_is_and_saved_again(tmp_path):
    for seed in range(8):
        registry.record(made(seed).save(tmp_path / f"{seed}.png"), made(seed), seed + 1)
    assert registry.size() == 8
    (same,) = registry.find(tmp_path / "3.png")
    assert same.same and same.generation == 4 and same.model == "house/image"
    small = Image.fromarray(clouds(3)).resize((48, 48))
    small.save(tmp_path / "again.jpg", quality=60)
    (like,) = registry.find(tmp_path / "again.jpg")
    assert like.chance == pytest.approx(8 * 3.2e-4)
    assert not like.same and like.generation == 4 and like.bits <= registry.NEAR["picture"]
    images.save_image(clouds(100), tmp_path / "other.png")
    assert registry.find(tmp_path / "other.png") == []


def test_clips_and_sounds(tmp_path):
    frames = np.stack([clouds(seed, 64) for seed in range(5)])
    clip, again = tmp_path / "clip.mp4", tmp_path / "clip.gif"
    video.save_clip(frames, clip, 8)
    video.save_clip(frames, again, 8)
    one, two = fingerprint(clip), fingerprint(again)
    assert one.kind == two.kind == "clip" and len(one.words) == 3
    assert differing(one.words, two.words[None])[0] <= registry.NEAR["clip"]
    noise = np.random.default_rng(0).normal(size=(1, 48000)) * np.geomspace(1, 0.01, 48000) * 0.2
    kept = [audio.save_audio(noise, tmp_path / name, 24000) for name in ("a.wav", "a.opus")]
    words = [fingerprint(file).words for file in kept]
    assert differing(words[0], words[1][None])[0] <= registry.NEAR["sound"]


def test_pictures_that_are_unlike_are_seldom_near():
    words = np.array([of_greys([grey(clouds(seed, 64))]) for seed in range(200)])
    pairs = np.concatenate([differing(words[i], words[i + 1 :]) for i in range(199)])
    assert (pairs <= registry.NEAR["picture"]).sum() == 0 and 31 < pairs.mean() < 33
    other = np.random.default_rng(1).normal(size=(20, 16000))
    sounds = np.array([of_sound(each) for each in other])
    apart = np.concatenate([differing(sounds[i], sounds[i + 1 :]) for i in range(19)])
    assert (apart <= registry.NEAR["sound"]).sum() == 0


def test_what_is_plain_is_like_nothing(tmp_path):
    flat = np.full((32, 32, 3), 90, np.uint8)
    first = images.save_image(flat, tmp_path / "a.png")
    registry.record(first, Picture(RECIPE, "stop", flat, 1), None)
    images.save_image(flat + 1, tmp_path / "b.png")
    assert registry.find(tmp_path / "b.png") == [] and registry.find(first)[0].same
    assert len(of_sound(np.zeros(16000))) == 0


def test_off_with_the_history(tmp_path, monkeypatch):
    monkeypatch.setenv("DAEDAL_HISTORY", "0")
    file = made(1).save(tmp_path / "a.png")
    registry.record(file, made(1), None)
    assert registry.find(file) == [] and registry.size() == 0
