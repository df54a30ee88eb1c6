"""Speech through the pipeline, with the house voice: manners, times, marks, repeats, streams."""

import json

import numpy as np
import pytest
import torch

import daedal
from daedal.errors import DaedalError
from daedal.media import audio
from daedal.pipelines import speech
from daedal.systems.voice import decoded

SAID = "Good morning. It is *half* past seven, Dr. Smith!"


@pytest.fixture(scope="module")
def voice():
    return speech.load("house/voice", dtype="fp32")


@pytest.fixture(scope="module")
def said(voice):
    return voice(SAID, seed=1)


def loudest(samples):
    """The strongest frequency of a reading's loudest part, by autocorrelation, in Hz."""
    size = 4096
    frames = np.lib.stride_tricks.sliding_window_view(samples[0], size)[::1024]
    pitches = []
    for frame in frames[np.argsort((frames**2).sum(1))[-12:]]:
        spectrum = np.abs(np.fft.rfft(frame, 2 * size)) ** 2
        power = np.fft.irfft(spectrum)[:size]
        low, high = 22050 // 300, 22050 // 60
        pitches.append(22050 / (low + power[low:high].argmax()))
    return np.median(pitches)


def test_it_speaks_and_says_when(said):
    assert said.samples.dtype == np.float32 and 2 < said.seconds < 8
    assert 0.05 < np.abs(said.samples).max() <= 1
    assert [line.text for line in said.lines] == [
        "Good morning.",
        "It is half past seven, Dr. Smith!",
    ]
    assert [w.text for w in said.words] == [
        "good",
        "morning",
        "it",
        "is",
        "half",
        "past",
        "seven",
        "doctor",
        "smith",
    ]
    times = [time for w in said.words for time in (w.start, w.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= said.seconds
    assert said.lines[1].start > said.lines[0].end


def test_the_same_seed_is_the_same_speech_and_another_is_not(voice, said):
    assert voice(SAID, seed=1).logged == said.logged
    assert voice(SAID, seed=2).logged != said.logged
    assert voice(SAID, seed=5, noise=0).logged == voice(SAID, seed=6, noise=0).logged
    assert voice.reproduce(said.recipe).logged == said.logged
    two = voice(SAID, seed=1, n=2)
    assert [each.logged for each in two] == [said.logged, voice(SAID, seed=2).logged]
    assert voice.reproduce(two[1].recipe).logged == two[1].logged


def test_pieces_are_the_whole(voice, said):
    pieces = list(voice.stream(SAID, seed=1))
    np.testing.assert_array_equal(np.concatenate([p.samples for p in pieces])[None], said.samples)
    assert len(pieces) >= 4 and pieces[-1].done == pieces[-1].total == 2


def test_decoded_blocks_are_the_whole(voice):
    vits = voice.voice.vits
    latents = torch.randn((1, 192, 401), generator=torch.Generator().manual_seed(0))
    blocks = np.concatenate([samples for _, _, samples in decoded(vits, latents)])
    with torch.enable_grad():  # in one go
        whole = vits.decode(latents)[0].detach().numpy()
    np.testing.assert_allclose(blocks, whole, atol=2e-5)


def test_manners(voice):
    plain = voice(SAID, noise=0, seed=0)
    assert voice(SAID, noise=0, speed=1.5).seconds < 0.85 * plain.seconds
    assert voice(SAID, noise=0, pauses=5).seconds > plain.seconds + 0.7
    low, high = (voice(SAID, noise=0, pitch=p) for p in (-4, 4))
    assert abs(low.seconds - plain.seconds) < 0.4 and abs(high.seconds - plain.seconds) < 0.4
    assert loudest(high.samples) > 1.15 * loudest(plain.samples) > 1.3 * loudest(low.samples)
    quiet = voice(SAID, noise=0, energy=0.25)
    assert np.abs(quiet.samples).max() < 0.3 * np.abs(plain.samples).max()


def test_emphasis_is_longer_and_louder(voice):
    def word(text):
        made = voice(text, noise=0)
        (found,) = [w for w in made.words if w.text == "never"]
        part = made.samples[0, int(found.start * made.rate) : int(found.end * made.rate)]
        return found.end - found.start, np.abs(part).mean()

    plain, loud = word("She will never go there."), word("She will *never* go there.")
    assert loud[0] > 1.15 * plain[0] and loud[1] > 1.1 * plain[1]


def test_a_pause_is_as_long_as_it_says(voice):
    short, long = (voice(f"One. [pause {s}s] Two.", noise=0) for s in (0.2, 1.2))
    assert long.seconds - short.seconds == pytest.approx(1.0, abs=0.01)


def test_a_long_text_does_not_drift(voice):
    """The last sentence of many is what it is alone."""
    text = "The sea was calm. " * 12 + "Nobody came."
    long, alone = voice(text, noise=0), voice("Nobody came.", noise=0)
    end = long.samples[:, -alone.samples.shape[1] :]
    np.testing.assert_allclose(end, alone.samples, atol=1e-5)
    assert len(long.lines) == 13


def test_files_carry_the_recipe_and_subtitles(voice, tmp_path):
    made = voice(SAID, seed=4, subtitles=str(tmp_path / "a.srt"))
    saved = made.save(tmp_path / "a.flac")
    assert audio.recipe_of(saved) == made.recipe and "subtitles" not in made.recipe["settings"]
    srt = (tmp_path / "a.srt").read_text()
    assert srt.startswith("1\n00:00:00,000 --> 00:00:0") and "Dr. Smith!" in srt
    rows = json.loads(made.save_subtitles(tmp_path / "a.json").read_text())
    assert rows[1]["words"][2]["text"] == "half"
    with pytest.raises(DaedalError, match=r"\.srt or \.json"):
        made.save_subtitles(tmp_path / "a.txt")


def test_a_notebook_shows_a_player_and_a_picture(said):
    assert said._repr_html_().startswith("<audio controls")
    assert said._repr_png_().startswith(b"\x89PNG")
    assert said.as_dict()["words"][0]["text"] == "good"


def test_cancelling_stops_it(voice):
    handle = voice.start("The sea was calm. " * 40)
    next(iter(handle))
    handle.cancel()
    with pytest.raises(DaedalError, match="cancelled"):
        handle.results()


@pytest.mark.parametrize(
    ("text", "settings", "word"),
    [
        ("", {}, "no text"),
        ("привет", {}, "Cyrillic"),
        ("Hi.", {"speed": 9}, "out of range"),
        ("Hi.", {"voices": 1}, "not a setting"),
        ("Hi.", {"speaker": "anna"}, "one speaker"),
        ("a" * 2_000_001, {}, "in parts"),
    ],
)
def test_what_cannot_be_said_is_one_sentence(voice, text, settings, word):
    with pytest.raises(DaedalError, match=word):
        voice(text, **settings)


def test_unknown_voices_name_the_nearest():
    with pytest.raises(DaedalError, match="did you mean 'joe'"):
        speech.load("jo")
    with pytest.raises(DaedalError, match="is not a voice"):
        speech.load("house/text")


def test_the_registry_opens_it():
    made = daedal.load("house/voice", dtype="fp32")
    assert made.medium.name == "speech"


def test_a_reading_made_again_is_the_same_file(voice, tmp_path):
    first = voice("Good morning.")
    again = voice.reproduce(first.recipe)
    files = [made.save(tmp_path / f"{i}.flac") for i, made in enumerate((first, again))]
    assert files[0].read_bytes() == files[1].read_bytes()
