"""Sound files: round trips in every format, recipes, blocks, what a bad file says, pictures."""

import io
import sys

import numpy as np
import pytest
import soundfile

from daedal.errors import DaedalError
from daedal.media import audio
from daedal.media.sound_picture import picture

RATE = 24000  # which Opus knows too
RECIPE = {"model": "house/voice", "prompt": 'a "café" 🌙\n' * 900, "settings": {"seed": 2**53}}


def tone(channels=1, seconds=1.0, rate=RATE):
    at = np.arange(int(rate * seconds)) / rate
    return np.stack([np.sin(2 * np.pi * 330 * (i + 1) * at) / 2 for i in range(channels)]).astype(
        "f4"
    )


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("suffix", audio.FORMATS)
def test_a_saved_sound_is_read_again_with_its_recipe(tmp_path, suffix, channels):
    saved = audio.save_audio(tone(channels), tmp_path / f"a{suffix}", RATE, RECIPE)
    samples, rate = audio.open_audio(saved)
    assert rate == RATE and samples.dtype == np.float32
    assert samples.shape == (channels, RATE)
    inner = slice(2000, -2000)
    error = np.abs(samples - tone(channels))[:, inner].max()
    assert error < (1e-4 if suffix in (".wav", ".flac") else 0.05)
    assert audio.recipe_of(saved) == RECIPE


def test_the_same_sound_is_the_same_bytes():
    for suffix in (".wav", ".flac", ".mp3"):
        assert audio.encode(tone(), RATE, suffix) == audio.encode(tone(), RATE, suffix)


def test_opus_takes_rates_that_it_does_not_know():
    samples, rate = audio.open_audio(audio.encode(tone(rate=22050), 22050, ".opus"))
    assert (samples.shape[1], rate) == (24000, 24000)


def test_what_is_too_loud_is_clipped_not_wrapped():
    samples, _ = audio.open_audio(audio.encode(4 * tone(), RATE, ".wav"))
    assert samples.max() > 0.99 and np.abs(np.diff(samples)).max() < 0.5


def test_a_long_file_comes_in_blocks_equal_to_the_whole(tmp_path):
    saved = audio.save_audio(tone(2, 3.3, 44100), tmp_path / "a.wav", 44100)
    for rate in (None, 16000):
        found, blocks = audio.open_blocks(saved, seconds=0.5, rate=rate, mono=True)
        blocks = list(blocks)
        assert len(blocks) >= 7 and found == (rate or 44100)
        whole, _ = audio.open_audio(saved, rate=rate, mono=True)
        np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)


@pytest.mark.parametrize("kind", ["PCM_U8", "PCM_24", "FLOAT", "ULAW"])
def test_codings_of_other_writers(kind):
    file = io.BytesIO()
    soundfile.write(file, tone()[0], 8000, kind, format="WAV")
    samples, rate = audio.open_audio(file.getvalue())
    assert rate == 8000 and np.abs(samples[0] - tone()[0]).max() < 0.05
    assert audio.recipe_of(file.getvalue()) is None


def test_the_sound_track_of_a_video_is_taken(tmp_path):
    av = pytest.importorskip("av")
    for name, codec in (("clip.mp4", "aac"), ("a.m4a", "aac")):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream(codec, rate=RATE)
            frame = av.AudioFrame.from_ndarray(tone(), format="fltp", layout="mono")
            frame.rate = RATE
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        samples, rate = audio.open_audio(tmp_path / name, mono=True)
        assert rate == RATE and abs(samples.shape[1] - RATE) < 4096
        assert 0.3 < np.abs(samples).max() < 0.7  # AAC is lossy


def test_bad_files_say_what_is_wrong(tmp_path, monkeypatch):
    broken, empty = tmp_path / "broken.mp3", tmp_path / "empty.wav"
    broken.write_bytes(b"no sound at all" * 100)
    empty.write_bytes(audio.encode(np.zeros((1, 0), "f4"), RATE))
    with pytest.raises(DaedalError, match="holds no sound"):
        audio.open_audio(empty)
    with pytest.raises(DaedalError, match=r"no sound file there|there is no sound file"):
        audio.open_audio(tmp_path / "none.wav")
    with pytest.raises(DaedalError, match="does not end in a sound format"):
        audio.save_audio(tone(), tmp_path / "a.wave", RATE)
    monkeypatch.setattr(audio, "find_spec", lambda name: None)
    with pytest.raises(DaedalError, match="pip install av"):
        audio.open_audio(broken)


def test_a_broken_file_is_named(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "broken.mp3").write_bytes(b"no sound at all" * 100)
    with pytest.raises(DaedalError, match=r"broken\.mp3"):
        audio.open_audio(tmp_path / "broken.mp3")


def test_a_player_that_is_there_plays(tmp_path, monkeypatch):
    program = tmp_path / "aplay"
    program.write_text(f'#!/bin/sh\ncp "$2" {tmp_path}/heard.wav\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(audio, "PLAYERS", {"aplay": ("-q",)})
    assert audio.play(tone(), RATE)
    assert audio.open_audio(tmp_path / "heard.wav")[1] == RATE
    monkeypatch.setattr(audio, "PLAYERS", {})
    assert not audio.play(tone(), RATE)


def test_the_picture_shows_a_tone_where_it_is():
    low, high = (picture(tone(rate=8000)[:1], 8000), picture(tone(2, rate=8000)[1:], 8000))
    assert low.shape == high.shape and low.dtype == np.uint8

    def brightest(drawn):  # the row of the spectrogram's panel with the most light
        return drawn[300:670, 200:1600].astype(int).sum((1, 2)).argmax()

    assert brightest(low) > brightest(high) + 20
    assert picture(np.zeros((1, 0), "f4") + 0.0, 8000).shape == low.shape


def test_reading_sound_needs_no_torch():
    import subprocess

    code = (
        "import sys, daedal.media.audio, daedal.media.sound_picture; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
