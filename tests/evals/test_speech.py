"""Measures of a voice: errors of words, sentences drawn, speed; an ear that hears what was said."""

import pytest

from daedal.errors import DaedalError
from daedal.evals import speech
from daedal.pipelines.speech import load
from daedal.pipelines.speech_params import SpeechMeasuring


def test_words_are_compared_as_they_are_spelt():
    assert speech.spelt("It's 3:45 -- Dr. Smith's!") == "its three forty five doctor smiths"


def test_a_perfect_ear_hears_no_errors_and_a_deaf_one_all(tmp_path, monkeypatch):
    data = tmp_path / "a.txt"
    lines = [
        f"The captain looked at the sea and said nothing {word}."
        for word in ("then", "again", "more")
    ]
    data.write_text("\n\n".join(lines))
    voice = load("house/voice")
    texts = speech.sentences(SpeechMeasuring(data=str(data), n=2))
    assert set(texts) <= set(lines)
    heard = speech.heard(voice, texts, lambda made: made.recipe["prompt"])
    assert heard["words"].value == heard["letters"].value == heard["fails"].value == 0
    deaf = speech.heard(voice, texts, lambda made: "")
    assert deaf["words"].value == 1.0

    monkeypatch.setattr(speech, "ear", lambda folder: lambda made: made.recipe["prompt"])
    asked = SpeechMeasuring(data=str(data), n=2, ear="ear", beside="house/voice")
    report = speech.evaluate(voice, asked)
    assert report.values["beside"]["words"]["value"] == 0
    assert 0 < report.values["voice"]["real_time"]["value"] < 2
    assert report.values["bytes"] < 10_000_000


def test_without_data_or_an_ear_it_says_so(tmp_path):
    with pytest.raises(DaedalError, match="--data"):
        speech.sentences(SpeechMeasuring())
    with pytest.raises(DaedalError, match=r"faster-whisper|model\.bin"):
        speech.ear(str(tmp_path))
