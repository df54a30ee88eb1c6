"""Video files: what is written is read again, by us and by others; nothing is left of what failed."""

import json
import shutil
import subprocess

import av
import numpy as np
import pytest
from PIL import Image

from daedal.errors import DaedalError
from daedal.media import audio, video


def moving(count=12, height=48, width=64):
    """A square that moves over a slope of colours."""
    down, right = np.mgrid[:height, :width]
    ground = np.stack([down * 2 + 80, right * 2, np.full_like(down, 90)], -1).astype(np.uint8)
    clip = np.repeat(ground[None], count, 0)
    for i, frame in enumerate(clip):
        frame[10:26, 2 * i : 2 * i + 16] = (220, 40, 40)
    return clip


def psnr(a, b):
    return -10 * np.log10(((a.astype(float) - b) ** 2).mean() / 255**2 + 1e-12)


@pytest.mark.parametrize(
    "suffix, near", [(".mp4", 33), (".webm", 33), (".webp", 90), (".png", 90), (".gif", 30)]
)
@pytest.mark.parametrize("rate", [8.0, 12.5])
def test_what_is_written_is_read_again(tmp_path, suffix, near, rate):
    clip, recipe = moving(), {"prompt": "ein Kreis — ○", "settings": {"seed": 3}}
    path = video.save_clip(clip, tmp_path / f"a{suffix}", rate, recipe)
    frames, found = video.open_clip(path)
    assert frames.shape == clip.shape and found == pytest.approx(rate, rel=0.02)
    assert psnr(frames, clip) > near
    assert video.recipe_of(path) == recipe
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_colours_are_kept(tmp_path, suffix):
    """By the matrix that the file says it has."""
    for colour in [(214, 39, 40), (44, 160, 60), (35, 90, 210), (255, 255, 255), (0, 0, 0)]:
        clip = np.full((4, 32, 32, 3), colour, np.uint8)
        frames, _ = video.open_clip(video.save_clip(clip, tmp_path / f"a{suffix}", 8))
        assert np.abs(frames.mean((0, 1, 2)) - colour).max() < 4, colour


def test_an_odd_size_gets_a_row_more(tmp_path):
    clip = moving(3, 33, 51)
    frames, _ = video.open_clip(video.save_clip(clip, tmp_path / "a.mp4", 8))
    assert frames.shape == (3, 34, 52, 3) and psnr(frames[:, :33, :51], clip) > 30


def test_players_find_what_they_need(tmp_path):
    """Even sizes, 4:2:0, bt709, and the index in front of the pictures."""
    path = video.save_clip(moving(), tmp_path / "a.mp4", 8)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.colorspace) == ("h264", "yuv420p", 1)
    if shutil.which("ffprobe"):
        said = subprocess.run(
            ["ffprobe", "-v", "error", "-show_streams", "-of", "json", path],
            capture_output=True,
            check=True,
        )
        assert json.loads(said.stdout)["streams"][0]["nb_frames"] == "12"


def test_nothing_is_left_of_what_failed(tmp_path):
    clip = moving()
    with pytest.raises(KeyError), video.Writer(tmp_path / "a.mp4", 8) as file:
        file.add(clip[0])
        raise KeyError
    with (
        pytest.raises(DaedalError, match="does not fit a clip"),
        video.Writer(tmp_path / "a.mp4", 8) as file,
    ):
        file.add(clip[0])
        file.add(clip[1, :20])
    with (
        pytest.raises(DaedalError, match="at least one frame"),
        video.Writer(tmp_path / "a.mp4", 8),
    ):
        pass
    with pytest.raises(DaedalError, match=r"does not end in a video format.*use \.mp4"):
        video.save_clip(clip, tmp_path / "a.mp5", 8)
    assert not list(tmp_path.iterdir())


def test_frames_come_while_others_are_written(tmp_path):
    """A clip that never lies in memory whole."""
    with video.Writer(tmp_path / "long.mp4", 30) as file:
        for i in range(150):
            file.add(np.full((16, 16, 3), i, np.uint8))
    means = [frame.mean() for frame, _ in video.read(tmp_path / "long.mp4")]
    assert len(means) == 150 and np.abs(np.array(means) - np.arange(150)).max() < 3


def test_what_is_no_video_is_said(tmp_path):
    (tmp_path / "a.mp4").write_text("not a video")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    cut = video.save_clip(moving(), tmp_path / "c.webm", 8)
    cut.write_bytes(cut.read_bytes()[:200])
    for name in ("a.mp4", "c.webm"):
        with pytest.raises(DaedalError, match=r"is no video that can be read|has no pictures"):
            video.open_clip(tmp_path / name)
    with pytest.raises(DaedalError, match="there is no file"):
        video.open_clip(tmp_path / "d.mp4")
    frames, _ = video.open_clip(tmp_path / "b.png")  # a picture is a clip of one frame
    assert frames.shape == (1, 8, 8, 3) and video.recipe_of(tmp_path / "b.png") is None


def test_other_rates_and_sheets():
    clip = moving(12)
    assert (video.at_rate(clip, 8, 16)[::2] == clip).all()
    assert (video.at_rate(clip, 8, 4) == clip[::2]).all()
    assert video.sheet(clip, 4).shape == (48, 256, 3)
    assert (video.sheet(clip, 4)[:, -64:] == clip[-1]).all()
    assert video.resized(clip, 32, 32).shape == (12, 32, 32, 3)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("channels, rate", [(1, 16000), (2, 44100), (2, 96000)])
def test_a_sound_is_heard_with_the_frames(tmp_path, suffix, channels, rate):
    """Two seconds of tones, the second channel's an octave higher."""
    time = np.arange(2 * rate) / rate
    tones = np.stack([0.4 * np.sin(2 * np.pi * 440 * 2**c * time) for c in range(channels)])
    clip = np.concatenate([moving()] * 2)[:16]
    path = video.save_clip(
        clip, tmp_path / f"a{suffix}", 8, {"seed": 1}, (tones.astype("f4"), rate)
    )
    frames, found = video.open_clip(path)
    assert len(frames) == 16 and found == 8 and video.recipe_of(path) == {"seed": 1}
    heard, own = audio.open_audio(path)
    assert heard.shape[0] == channels and heard.shape[1] / own == pytest.approx(2, abs=0.1)
    for channel, samples in enumerate(heard):
        middle = samples[own // 2 : own // 2 + own]  # a second
        loudest = np.abs(np.fft.rfft(middle))
        assert loudest.argmax() == 440 * 2**channel
        assert np.abs(middle).max() == pytest.approx(0.4, rel=0.1)


def test_a_sound_is_as_long_as_its_clip():
    sound = np.ones((1, 1000), np.float32), 1000
    (cut, _), said = video.fitted(sound, 0.6)
    assert cut.shape == (1, 600) and "sound of 1.00 s is cut to the clip's 0.60 s" in said
    (long, _), said = video.fitted(sound, 1.5)
    assert long.shape == (1, 1500) and not long[:, 1000:].any() and "ends after 1.00 s" in said
    assert video.fitted(sound, 1.001)[1] == ""
